"""Dialects: what each API's requests ask for, and where usage sits in its answers. Pure: bytes in, facts out.

base        the port: what a dialect must offer, endpoints, readers of streams
declarations  what a dialect declares as data: headers, the key's place, features; declared  that of all dialects
facts       what a dialect tells of a request and its answer; exceptions  what it raises
registry    all dialects, and which of them a request speaks; paths that are refused by name, and why
openai/     OpenAI's API: chats, completions, embeddings, moderations; openai_responses/  its Responses API
anthropic/  Anthropic's; gemini/  Google's; rerank/  Cohere's, Voyage's and Jina's reranks
betas       features that clients opt into by a header, and what they change of metering
streaming   the tap on a stream of events: usage is seen, the end held back; events  as bytes
output      what a model reads and writes, of any dialect: text, and inline data; shares  parts of what it counted
structure   how much structure a JSON body may have, told from its bytes
fields      the objects of a request: their names, each there once and spelled one way; values  single values,
            and the small ones at the top level; decoding  the one safe decoder
"""
