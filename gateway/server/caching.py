"""What caches are told of answers that are one key's own: not to keep them, and what they depend on.

`Vary` names every header that may carry the key, and those by which the API of a client is known: a cache that keeps
answers in spite of `no-store` must not give one customer's answer to another.
"""

from typing import Final

from gateway.dialects.declared import KEY_HEADERS, of_all

NO_STORE: Final = "private, no-store"
VARY: Final = ", ".join(("Authorization", *KEY_HEADERS, *of_all(lambda each: each.known_by)))
PRIVATE: Final = {"Cache-Control": NO_STORE, "Vary": VARY}
# The same as header lines, each with its CRLF.
PRIVATE_LINES: Final = "".join(f"{name}: {value}\r\n" for name, value in PRIVATE.items()).encode()
