"""Gemini's own API: generateContent, streamGenerateContent, embedContent, batchEmbedContents, countTokens.

dialect   the endpoints, and the few fields that the gateway changes
names     the objects of a request, whose names have two spellings
declared  headers and the key's places
request   what a request asks for at most (output, candidates, tools, stored input), and what its parts bring
answer    what an answer reports as used, and what was written in it
streams   the tap on a stream, and its pieces, of events or of one JSON array
envelopes errors and the list of models, as Google's clients expect them
"""
