"""Rules of what must not be written: mail addresses, cards' numbers, keys, and the operator's own patterns. Pure.

They run on RE2, which takes time in proportion to a text's length, whatever the rule: no rule can be written, and no
text be sent, on which it backtracks. It lets other threads run meanwhile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from gateway.config.body_logs import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.config.body_logs import Redact

# In one text; one with more is taken out whole.
MOST_MATCHES: Final = 10_000
# The shortest of this gateway's own secrets that are looked for.
LEAST_SECRET: Final = 8
Span = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """Takes out what a pattern of RE2 finds, where `within` gives the spans in each such place; `name` is put there."""

    name: str
    pattern: Any
    within: Callable[[str, int, int], Iterable[tuple[int, int]]] | None = None

    def spans(self, text: str) -> list[Span]:
        """Return what is to be taken out of a text: no more than one above MOST_MATCHES."""
        found: Iterable[tuple[int, int]] = (match.span() for match in self.pattern.finditer(text))
        if self.within is not None:
            runs, within = found, self.within
            found = (span for start, end in runs for span in within(text, start, end))
        return [(start, end, self.name) for start, end in islice(found, MOST_MATCHES + 1) if end > start]


def rules_of(config: Redact, secrets: Iterable[str] = ()) -> list[Rule]:
    """Return the rules of a configuration, and those that always apply: keys, and these texts wherever they stand."""
    rules = [preset(name) for name in dict.fromkeys((*config.presets, "keys"))]
    rules += [Rule("redacted", compile_pattern(pattern)) for pattern in config.patterns]
    known = sorted({each for each in secrets if len(each) >= LEAST_SECRET}, key=len, reverse=True)
    if known:
        rules.append(Rule("key", compile_pattern("|".join(map(_quoted, known)))))
    return rules


def any_of(rules: list[Rule]) -> Any:
    """Return a pattern that is found where one of these rules finds something: most texts have nothing of any. None
    where the rules are too many for one pattern."""
    try:
        return compile_pattern("|".join(f"(?:{rule.pattern.pattern})" for rule in rules))
    except ValueError:
        return None


def _quoted(text: str) -> str:
    """Return a pattern of RE2 that finds this text."""
    return re.sub(r"\W", lambda found: f"\\x{{{ord(found[0]):x}}}", text)


_MAIL: Final = r"""[^\s@"'<>(),;:\\\[\]{}|]+(?:@|%40)(?:[^\s@"'<>(),;:\\\[\]{}|/.]+\.)+[\pL]{2,}"""
_KEYS: Final = "|".join(
    (
        r"\bmg_[0-9A-Za-z]{38}",
        r"\bmg[ars]_[A-Za-z0-9_-]{43,}",
        r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}",
        r"\b(?:sk|pk|rk|whsec)_[A-Za-z0-9_]{16,}",
        r"\b(?:gsk|xai|pplx|hf|npm|r8|glpat|nvapi|tgp_v1)[_-][A-Za-z0-9_-]{20,}",
        r"\bA[KS]IA[0-9A-Z]{16}\b",
        r"\bAIza[0-9A-Za-z_-]{35}",
        r"\b(?:gh[pousr]|github_pat)_[A-Za-z0-9_]{22,}",
        r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
        r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",
        r"(?i:\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,})",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
    )
)
_DIGITS: Final = r"[0-9](?:[ -]?[0-9]){12,}"
# As cards write them: in one, or in groups. Each place where one may begin is looked at.
_CARD: Final = re.compile(
    r"(?<!\d)(?=([2-6]\d{12,18}(?!\d)|[2-6]\d{3}([ -])\d{4}\2\d{4}\2\d{1,4}(?!\d)|3\d{3}[ -]\d{6}[ -]\d{4,5}(?!\d)))",
    re.ASCII,
)
_CARD_CHARACTERS: Final = 25
# Of a long run of digits, what is looked at in one go: Python's own patterns let no other thread run meanwhile.
_RUN_CHARACTERS: Final = 4_096


def preset(name: str) -> Rule:
    """Return a rule that is shipped, one of `gateway.config.body_logs.PRESETS`."""
    match name:
        case "mail_addresses":
            return Rule("mail", compile_pattern(_MAIL))
        case "card_numbers":
            return Rule("card", compile_pattern(_DIGITS), _cards)
        case _:
            return Rule("key", compile_pattern(_KEYS))


def _cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the numbers of cards in a run of digits: as they are written, with a right check digit."""
    for low in range(start, end, _RUN_CHARACTERS):
        for match in _CARD.finditer(text, low, min(end, low + _RUN_CHARACTERS + _CARD_CHARACTERS)):
            if passes_luhn(match[1]):
                yield match.span(1)


def passes_luhn(written: str) -> bool:
    """Return whether the check digit of a card's number is right."""
    digits = [int(each) for each in written if each.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def replaced(pieces: list[str], spans: list[Span]) -> list[str]:
    """Return the pieces of a text with spans of the whole replaced; what stands instead is put where a span begins."""
    if not spans:
        return pieces
    made: list[str] = []
    begins, at = 0, 0
    for piece in pieces:
        ends, parts, here = begins + len(piece), list[str](), begins
        while at < len(spans) and spans[at][0] < ends:
            start, end, instead = spans[at]
            if start >= begins:
                parts += [piece[here - begins : start - begins], instead]
            here = min(end, ends)
            if end > ends:
                break
            at += 1
        parts.append(piece[here - begins :])
        made.append("".join(parts))
        begins = ends
    return made
