"""Providers: what each API's requests ask for and where usage sits in its answers.

    dialect.py        the port: shared types, exceptions, and what a dialect must offer
    openai.py         OpenAI's format, the request: chat completions, completions, embeddings; read and rewritten
    openai_parts.py   OpenAI's format, the messages: images, audio and files, and input that is not in the body
    openai_input.py   OpenAI's format, the request: what of it a model reads
    openai_output.py  OpenAI's format, the answer: what was written
    openai_usage.py   OpenAI's format, the answer: usage and errors, whole or in stream events
    output.py         what a model wrote, of any format: text, and inline data
    local.py          a provider inside the process; local_request.py, local_text.py and local_wire.py are its parts

All but local.py is pure: bytes in, facts out; no I/O, no clock.
"""
