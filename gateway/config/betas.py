"""The `betas` of metergate.yaml: what features that clients opt into by a header do to metering."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.source import Value
    from gateway.dialects.declarations import BetaEffect

_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_NAME: Final = re.compile(r"[!-+\--~]{1,200}", re.ASCII)
_EFFECTS: Final = ("pass", "window", "refuse")
LEAST_WINDOW: Final = 1_000
MOST_WINDOW: Final = 100_000_000


def read_betas(at: Value | None) -> Mapping[str, Mapping[str, BetaEffect]]:
    """Return effects by header and by how a feature's name begins; wrong ones are problems."""
    found: dict[str, dict[str, BetaEffect]] = {}
    for header, features in {} if at is None else at.entries().items():
        if not _HEADER.fullmatch(header):
            features.problem("expected the name of a header")
        found[header.lower()] = {}
        for name, value in {} if features.is_null else features.entries().items():
            if not _NAME.fullmatch(name):
                value.problem("expected how a feature's name begins, without blanks and commas")
            effect = _effect(value)
            if effect is not None:
                found[header.lower()][name.lower()] = effect
    return found


def _effect(value: Value) -> BetaEffect | None:
    text = value.scalar(_EXPECTED)
    if text is None or text in _EFFECTS:
        return cast("BetaEffect | None", text)
    if text.isascii() and text.isdigit() and LEAST_WINDOW <= int(text[:12]) <= MOST_WINDOW:
        return int(text)
    value.expected(_EXPECTED)
    return None


_EXPECTED: Final = f"{', '.join(_EFFECTS)}, or a context window from {LEAST_WINDOW} to {MOST_WINDOW} tokens"
