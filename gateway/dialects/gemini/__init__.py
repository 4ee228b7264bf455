"""Gemini's own API: generateContent, streamGenerateContent, embedContent, batchEmbedContents, countTokens.

dialect   the endpoints, and the few fields that the gateway changes
names     the objects of a request, whose names have two spellings
request   what a request asks for at most: output, candidates, tools, stored input
contents  what a request brings: its parts, their texts and inline data
answer    what an answer reports as used; output  what was written in it
streams   the tap on a stream; frames  its pieces, of events or of one JSON array
envelopes errors and the list of models, as Google's clients expect them
"""
