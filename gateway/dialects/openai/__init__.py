"""OpenAI's API: chat completions, completions, embeddings.

dialect    the request: what it asks for at most, and the few top-level fields that the gateway changes
fields     the objects of a request: their names, each there once and spelled one way
parts      the messages: images, audio and files, and input that is not in the body
input      what of a request a model reads; texts  those that become tokens by themselves
work       what a provider does beside one call of the model named
output     the answer: what was written; usage  usage and errors, whole or in events; searches  billed beside tokens
"""
