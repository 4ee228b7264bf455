"""OpenAI's API: chat completions, completions, embeddings, moderations.

dialect    the request: what it asks for at most, and the few top-level fields that the gateway changes
values     the small fields of a request, by a table of their types
paths      which operation a request is sent to, also by the paths of Azure's client
parts      the messages: images, audio and files, and input that is not in the body
texts      what of a request a model reads, and which texts become tokens by themselves
work       what a provider does beside one call of the model named
tools      which tools run at the provider, wherever a request carries them
errors     the envelope of errors
output     the answer: what was written, and a stream's events; usage  what was used; counts  its classes
billed     what a provider says that it charged, and searches, which are billed beside tokens
"""
