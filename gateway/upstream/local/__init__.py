"""The local provider: answers by itself, without network, in OpenAI's, Anthropic's and Google's exact wire formats.

provider   the transport; generator  what it says, and what it understands of a request
openai     answers in OpenAI's format, the Responses API with what it stores, and reranks; anthropic, gemini  in theirs
"""
