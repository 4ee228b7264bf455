"""Anthropic's API: messages, and counting the tokens of one.

dialect   the requests: what they ask for at most, and the fields that the gateway changes
content   the messages: input that is not text, what of a request a model reads, and what it wrote
work      tools that run at the provider, other models, and features that are still tried out
usage     the counts of an answer, of all models that worked for it, and of the events of a stream
declared  headers, the key's place, and features that are still tried out
envelopes errors and the list of models, as Anthropic's clients expect them
"""
