"""A secret that doesn't show itself. This file owns the rule that no repr, log line or error holds a secret's text."""

import hmac
from hashlib import sha256
from typing import Final

HIDDEN: Final = "***"
# The least length of the keys of operators and services: they are not looked up, but may be guessed.
KEY_CHARACTERS: Final = 24
# The least length of what signs tokens by HS256 (RFC 7518, section 3.2).
SIGNING_BYTES: Final = 32
MAKE_A_KEY: Final = "`openssl rand -hex 32`"


class Secret:
    """A text that `repr`, `str` and formatting show as `***`; `reveal()` gives it to the code that must send it.

    Not a dataclass, because `dataclasses.asdict` would open it. Raises `ValueError` for an empty text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a secret is not empty")
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def matches(self, presented: str) -> bool:
        """Return whether a presented text is this secret, in a time that depends on neither one's content."""
        return hmac.compare_digest(_digest(self._text), _digest(presented))

    def __eq__(self, other: object) -> bool:
        return self.matches(other._text) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(_digest(self._text))

    def __repr__(self) -> str:
        return HIDDEN


def long_enough(key: Secret) -> bool:
    """Return whether a key of operators or services is too long to be guessed."""
    return len(key.reveal()) >= KEY_CHARACTERS


def revealed(secret: Secret | None) -> str | None:
    """Return a secret's text, where there is one."""
    return None if secret is None else secret.reveal()


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
