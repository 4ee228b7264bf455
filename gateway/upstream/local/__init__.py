"""The local provider: answers by itself, without network, in OpenAI's and Anthropic's exact wire formats.

provider   the transport; request  what it understands; generator  what it says
openai     answers in OpenAI's format, and reranks; anthropic  in Anthropic's; gemini  in Google's;
           responses  the Responses API, with what it stores, for every process
"""
