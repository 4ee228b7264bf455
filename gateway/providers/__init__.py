"""Providers: what each API's requests ask for and where usage sits in its answers. Pure: no I/O, no clock.

dialect.py        the port: shared types, exceptions, and what a dialect must offer
openai.py         OpenAI's format: chat completions, completions, embeddings; reading and rewriting requests
openai_usage.py   OpenAI's format: usage, text and errors in whole answers and in stream events
local.py          the built-in provider, which answers without a network
"""
