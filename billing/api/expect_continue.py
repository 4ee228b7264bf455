"""Expect: 100-continue: a client that waits to be told that its body is wanted (RFC 9110, 10.1.1)."""

from typing import Final

from aiohttp import web

# Whether the client waits, and the server leaves it to whoever reads the body to tell it: a request that is refused
# before need not send one.
AWAITS_CONTINUE: Final = web.RequestKey("awaits_continue", bool)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
