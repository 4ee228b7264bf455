"""What all dialects declare together (`gateway.dialects.declarations`). A new dialect is added here, and to
`gateway.dialects.registry`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from multidict import istr

from gateway.dialects.anthropic.declared import ANTHROPIC
from gateway.dialects.gemini.declared import GEMINI
from gateway.dialects.openai.declared import OPENAI
from gateway.dialects.rerank.declared import RERANKS

if TYPE_CHECKING:
    from gateway.dialects.declarations import Declarations

# By the name of the dialect; those of a dialect that is not there are OpenAI's.
DECLARED: Final[Mapping[str, Declarations]] = {
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "rerank": RERANKS,
    "openai": OPENAI,
}


def of_all(names: Callable[[Declarations], Iterable[str]]) -> tuple[str, ...]:
    """Return the names that dialects declare, each once."""
    return tuple(dict.fromkeys(name for each in DECLARED.values() for name in names(each)))


# Headers in which any client may show its key, beside `Authorization`.
KEY_HEADERS: Final = tuple(map(istr, of_all(lambda each: each.key_headers)))


# Names that no provider's `pass_headers` may have, in lower case; nor what begins with NEVER_SENT_PREFIXES.
NEVER_SENT: Final = frozenset(
    {
        # The message that goes out is a new one: other host, other framing, a body that was decoded and read whole.
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # Credentials.
        "authorization",
        "cookie",
        "x-admin-key",
        *KEY_HEADERS,
    }
)
NEVER_SENT_PREFIXES: Final = ("proxy-", "x-metergate-")
# Features that change metering, by the header that opens them.
DEFAULT_BETAS: Final = {header: names for each in DECLARED.values() for header, names in each.betas.items()}


@cache
def key_headers(declared: Declarations) -> tuple[str, ...]:
    """Return the headers in which clients of a dialect may show their key: those of all dialects, and its own."""
    return (*KEY_HEADERS, *(istr(name) for name in declared.key_headers if name not in KEY_HEADERS))


def never_sent(name: str) -> bool:
    """Return whether a client's header of this name is never sent to a provider, even if the provider's entry names
    it."""
    lower = name.lower()
    return lower in NEVER_SENT or lower.startswith(NEVER_SENT_PREFIXES)


def _word(*names: str) -> re.Pattern[str]:
    """Return what finds one of these between the hyphens of a model's name."""
    return re.compile(rf"(?:^|[-/])(?:{'|'.join(names)})(?:[-.]|\Z)")


# Of models that are asked over sessions, jobs or pages (https://platform.openai.com/docs/models,
# https://docs.mistral.ai/getting-started/models).
_SESSIONS: Final = _word("realtime", "live", "native-audio", "lyria", "veo", "imagen", "ocr")
# Of models of pictures and sound that have endpoints of their own (https://platform.openai.com/docs/models,
# https://docs.x.ai/docs/models).
_MEDIA: Final = _word("tts", "whisper", "transcribe", "image", "dall-e", "sora", "voice", "orpheus", "imagine")


def is_asked_here(model: str, served: Iterable[str]) -> bool:
    """Return whether a model is one for the endpoints that the gateway serves, by its name at a provider that serves
    these dialects."""
    if _SESSIONS.search(model):
        return False
    return not _MEDIA.search(model) or any(name in DECLARED and DECLARED[name].generates_media for name in served)
