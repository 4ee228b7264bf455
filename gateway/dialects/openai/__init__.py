"""OpenAI's API: chat completions, completions, embeddings, moderations.

dialect    the request: what it asks for at most, and the few top-level fields that the gateway changes
declared   headers and the key's place; vendors  what is usual for servers of this format, and their models
paths      which operation a request is sent to, also by the paths of Azure's client
messages   input that is not text, or not in the body; what a model reads, and which texts become tokens by themselves
work       what a provider does beside one call of the model named; which tools run there
errors     the envelope of errors
output     the answer: what was written, and a stream's events
usage      what was used, by class, what a provider says that it charged, and searches, billed beside tokens
"""
