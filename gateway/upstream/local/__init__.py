"""The local provider: answers by itself, without network, in OpenAI's exact wire format.

provider   the transport; request  what it understands; text  what it says; wire  how that is written
"""
