"""An API that nobody has, as different from OpenAI's as the port allows: what the gateway knows of it stands here.

dialect   the requests, the whole answers and the errors
streams   named events whose usage comes in parts, and a JSON array
served    a gateway whose provider serves it, and a client of it
"""
