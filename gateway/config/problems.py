"""What is wrong with a configuration: every problem at once, each with its place; and `${VAR}` in the text of a file.

No message holds a secret's text. This file owns what a reference is, `${VAR}` or `${VAR:-default}`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from billing.errors import MetergateError


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` is `config/prices.yaml:12` or `environment`; `key` names the field, empty for a whole file."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(MetergateError):
    """A configuration that can't be used. `problems` are all that were found, in the order of reading."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """Collects problems while reading goes on, so that an operator sees all of them at once."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    def add(self, where: str, key: str, message: str) -> None:
        """Note a problem."""
        self._found.append(Problem(where, key, message))

    def refuse(self) -> None:
        """Raise `ConfigError` if anything was found."""
        if self._found:
            raise ConfigError(self._found)


def nearest(name: str, known: Collection[str]) -> str:
    """Return `; did you mean X?` where a known name is close, else `; known are …` where the list is short, else
    nothing."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(sorted(known))}" if 0 < len(known) <= 16 else ""


_REFERENCE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^{}]*)?\}")


class Unset(MetergateError):
    """A text refers to a variable that is not set and gives no default."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"the variable {variable} is not set; set it, or write ${{{variable}:-default}}")
        self.variable = variable


def refers(text: str) -> bool:
    """Return whether a text has a reference in it."""
    return "${" in text and _REFERENCE.search(text) is not None


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return the text with each reference replaced; a variable that is set to nothing counts as unset, as in a shell's
    `:-`.

    Raises `Unset` for a variable without a value and a default, and `ValueError` for a `${` that is neither form.
    """

    def replace(match: re.Match[str]) -> str:
        value = environ.get(match["name"])
        if value:
            return value
        default: str | None = match["default"]
        if default is None:
            raise Unset(match["name"])
        return default.removeprefix(":-")

    if "${" not in text:  # nearly every text of a table of prices
        return text
    if "${" in _REFERENCE.sub("", text):
        raise ValueError("expected ${NAME} or ${NAME:-default}")
    return _REFERENCE.sub(replace, text)
