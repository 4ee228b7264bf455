"""`${VAR}` and `${VAR:-default}` in the text of a file. This file owns what a reference is."""

import re
from collections.abc import Mapping
from typing import Final

from billing.errors import MetergateError

_REFERENCE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^{}]*)?\}")


class Unset(MetergateError):
    """A text refers to a variable that is not set and gives no default."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"the variable {variable} is not set; set it, or write ${{{variable}:-default}}")
        self.variable = variable


def refers(text: str) -> bool:
    """Whether a text has a reference in it."""
    return _REFERENCE.search(text) is not None


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with each reference replaced; a variable that is set to nothing counts as unset, as in a shell's `:-`.

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

    if "${" in _REFERENCE.sub("", text):
        raise ValueError("expected ${NAME} or ${NAME:-default}")
    return _REFERENCE.sub(replace, text)
