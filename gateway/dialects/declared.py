"""What all dialects declare together (`gateway.dialects.declarations`). A new dialect is added here, and to
`gateway.dialects.registry`.

Features that clients opt into by a header have names, with commas between them (`anthropic-beta:
context-1m-2025-08-07,effort-2025-11-24`). A name that nobody has listed passes as it comes: what it opens is fields of
the body, and those are read. `Betas` holds the few that change more than that, by how their names begin, without their
dates and versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec
from multidict import istr

from gateway.dialects.anthropic import ANTHROPIC
from gateway.dialects.body import MAX_NAME_CHARS, BadRequest
from gateway.dialects.gemini import GEMINI
from gateway.dialects.openai import OPENAI
from gateway.dialects.rerank import RERANKS

if TYPE_CHECKING:
    from multidict import MultiMapping

    from gateway.dialects.declarations import BetaEffect, Declarations
    from gateway.dialects.facts import ParsedRequest

# Names in one refusal.
MOST_REFUSED: Final = 20


class Betas:
    """The listed features, by header. Later effects replace earlier ones of the same name."""

    def __init__(self, *listed: Mapping[str, Mapping[str, BetaEffect]]) -> None:
        merged: dict[str, dict[str, BetaEffect]] = {}
        for by_header in listed:
            for header, effects in by_header.items():
                lowered = {name.lower(): effect for name, effect in effects.items()}
                merged.setdefault(header.lower(), {}).update(lowered)
        self._by_header = tuple((istr(header), effects) for header, effects in merged.items())

    def stand_in(self, headers: MultiMapping[str]) -> bool:
        """Return whether headers name features at all."""
        return any(header in headers for header, _ in self._by_header)

    def applied(self, parsed: ParsedRequest, headers: MultiMapping[str]) -> ParsedRequest:
        """Return a request as its headers change it; the same object where they change nothing. Raises `BadRequest`,
        which names all features that are refused."""
        for header, effects in self._by_header:
            if header in headers:
                parsed = _apply(parsed, header, effects, headers.getall(header))
        return parsed


NO_BETAS: Final = Betas()


def _apply(
    parsed: ParsedRequest, header: str, effects: Mapping[str, BetaEffect], values: Iterable[str]
) -> ParsedRequest:
    names = [name.strip() for value in values for name in value.split(",")]
    found = [(name, effect) for name in names if (effect := _effect(name.lower(), effects)) is not None]
    refused = dict.fromkeys(name for name, effect in found if effect == "refuse")
    if refused:
        raise _refusal(str(header), list(refused))
    window = max([effect for _, effect in found if isinstance(effect, int)], default=0)
    outside = any(effect == "window" for _, effect in found)
    if not outside and window <= parsed.context_window:
        return parsed
    return msgspec.structs.replace(
        parsed,
        unbounded_input=parsed.unbounded_input or outside,
        context_window=max(window, parsed.context_window),
    )


def _effect(name: str, effects: Mapping[str, BetaEffect]) -> BetaEffect | None:
    """Return what a feature does, by the longest listed name that it is, or begins with before a sign."""
    listed = [each for each in effects if name.startswith(each) and not name[len(each) :][:1].isalnum()]
    return effects[max(listed, key=len)] if listed else None


def _refusal(header: str, names: list[str]) -> BadRequest:
    """Return the refusal of some features. Claude Code takes a feature out of its requests, and asks again, where a
    message has `capability_rejected: beta_header:NAME` and then a sign that no name has."""
    tokens = ", ".join(f"capability_rejected: beta_header:{name[:MAX_NAME_CHARS]}" for name in names[:MOST_REFUSED])
    return BadRequest(f"These features can't be metered here, leave them out of '{header}' ({tokens}).", header)


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
