"""Features that clients opt into by a header: what each changes of what a request is held for. This file owns that.

A header has names, with commas between them (`anthropic-beta: context-1m-2025-08-07,effort-2025-11-24`). A name that
nobody has listed passes as it comes: what it opens is fields of the body, and those are read. `Betas` holds the few
that change more than that, by how their names begin, without their dates and versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from multidict import istr

from gateway.dialects.exceptions import BadRequest
from gateway.dialects.values import MAX_NAME_CHARS

if TYPE_CHECKING:
    from multidict import MultiMapping

    from gateway.dialects.declarations import BetaEffect
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
