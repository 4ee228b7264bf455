"""Dialects: what each API's requests ask for, and where usage sits in its answers. Pure: bytes in, facts out.

base        the port: shared types, exceptions, and what a dialect must offer
openai/     OpenAI's API
streaming   the tap on a stream of events: usage is seen, the end held back
output      what a model wrote, of any dialect: text, and inline data
structure   how much structure a JSON body may have, told from its bytes
"""
