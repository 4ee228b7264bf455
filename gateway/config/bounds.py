"""What a setting of a file may be: its kind and range, in words for messages, checked and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from billing.money import parse_share

if TYPE_CHECKING:
    from gateway.config.source import Value


@dataclass(frozen=True, slots=True)
class Bound:
    """What a default may be: a whole number or a number from `low` to `high`, one of `choices`, a truth, a text, or a
    share, as the decimal that it is written as; or a list of at most `high` names."""

    kind: Literal["whole", "number", "choice", "truth", "text", "share", "names"]
    help: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def allowed(self) -> str:
        """Return the range in words, for messages and the documentation."""
        match self.kind:
            case "choice":
                return ", ".join(self.choices)
            case "truth":
                return "true, false"
            case "text":
                return "a name"
            case "share":
                return "above 0 to 1, at most 6 decimals"
            case "names":
                return f"a list of at most {self.high:.0f} names"
            case _:
                return f"{self.low:,.10g} to {self.high:,.10g}" + (", or null" if self.optional else "")

    def admits(self, value: object) -> bool:
        """Return whether a value lies within the bound."""
        match self.kind:
            case "choice":
                return value in self.choices
            case "truth":
                return isinstance(value, bool)
            case "text":
                return isinstance(value, str)
            case "share":
                return isinstance(value, str) and _is_share(value)
            case "names":
                are_names = isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)
                return are_names and len(value) <= self.high  # type: ignore[arg-type]
            case _:
                if value is None:
                    return self.optional
                kinds = (int,) if self.kind == "whole" else (int, float)
                return type(value) in kinds and self.low <= value <= self.high  # type: ignore[operator]

    def read(self, value: Value) -> Any:
        """Return what stands in a file; None for null where that is allowed, and for what is wrong, which is noted."""
        if value.is_null and self.optional:
            return None
        match self.kind:
            case "whole":
                return value.whole(int(self.low), int(self.high))
            case "number":
                return value.number(self.low, self.high)
            case "choice":
                return value.choice(self.choices)
            case "truth":
                return value.truth()
            case "text":
                return value.text("a name")
            case "share":
                return _read_share(value)
            case "names":
                return value.names("a name")


def _is_share(text: str) -> bool:
    try:
        parse_share(text)
    except ValueError:
        return False
    return True


def _read_share(value: Value) -> str | None:
    """Return the decimal as it is written, in quotes or bare: no float comes of it."""
    what = 'a share above 0 to 1 such as "0.25"'
    text = value.scalar(what)
    if text is None or _is_share(text):
        return text
    value.expected(what)
    return None
