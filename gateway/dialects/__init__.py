"""Dialects: what each API's requests ask for, and where usage sits in its answers. Pure: bytes in, facts out.

base        the port: what a dialect must offer
declarations  what a dialect declares as data: endpoints, headers, the key's place, features
declared    that of all dialects; features that clients opt into by a header, and what they change of metering
facts       what a dialect tells of a request and its answer; parts of what was counted
registry    all dialects, and which of them a request speaks; paths that are refused by name, and why
openai/     OpenAI's API: chats, completions, embeddings, moderations; openai_responses/  its Responses API
anthropic/  Anthropic's; gemini/  Google's; rerank/  Cohere's, Voyage's and Jina's reranks
streaming   the tap on a stream of events: usage is seen, the end held back; events as bytes; reader  what reads them
output      what a model reads and writes, of any dialect: text, and inline data
body        a request's JSON: how much structure it may have, its names, each there once and spelled one way, values;
            the one safe decoder, and what a dialect raises; distinct  names that keep what stands twice in an object
"""
