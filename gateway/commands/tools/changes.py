"""A change of a tool's file: what it holds, what it is to hold, and what of that is shown."""

import difflib
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.commands.first_start import FILE_MODE
from gateway.commands.tools.formats import CannotEdit, set_values
from gateway.commands.tools.settings import KEY_VARIABLE, FileValues
from gateway.config.secret import HIDDEN, Secret

NEW_MODE: Final = 0o644
# Settings that are longer are none.
MOST_BYTES: Final = 4 * 1024 * 1024
CONTEXT_LINES: Final = 2
_SECRET_FIELD: Final = re.compile(
    r"""(?P<name>["']?[\w.-]*(?:key|token|secret|password)["']?\s*[:=]\s*)(?P<value>"[^"]*"|'[^']*'|[^\s,#]+)""",
    re.IGNORECASE,
)
_FIELD: Final = re.compile(r"""(?P<name>[-+ ]\s*["']?[\w./-]+["']?\s*[:=]\s*)(?P<value>[^{[\s].*)""")


@dataclass(frozen=True, slots=True)
class Change:
    """A file with its bytes and mode before and after; `before` is None where there was none."""

    path: Path
    before: bytes | None = field(repr=False)
    after: bytes = field(repr=False)
    before_mode: int
    after_mode: int
    shown: frozenset[str] | None = None
    """Of a file that holds secrets: values that may be shown. None: all but those with a secret's name."""

    @property
    def is_needed(self) -> bool:
        """Return whether the file is to be written."""
        return (self.before, self.before_mode) != (self.after, self.after_mode)

    def diff(self, key: Secret) -> str:
        """Return what changes, without secrets: neither the key, nor what others stand in the file."""
        before, after = ((text or b"").decode(errors="replace").splitlines() for text in (self.before, self.after))
        old = "/dev/null" if self.before is None else str(self.path)
        lines = difflib.unified_diff(before, after, old, str(self.path), n=CONTEXT_LINES, lineterm="")
        return "\n".join(self._hidden(line, key) for line in lines)

    def _hidden(self, line: str, key: Secret) -> str:
        line = line.replace(key.reveal(), HIDDEN)
        if self.shown is None or line.startswith(("+++", "---", "@@")):
            return _SECRET_FIELD.sub(lambda found: found["name"] + _hidden_value(found["value"]), line)
        found = _FIELD.match(line)
        if found is None or found["value"].strip("\"',") in self.shown:
            return line
        return found["name"] + HIDDEN


def _hidden_value(value: str) -> str:
    """Return what is shown of a value with a name like that of a secret: references to one are none."""
    bare = value.strip("\"'")
    return value if bare.startswith(("{", "$", "!", "[", "cat")) or bare == KEY_VARIABLE else HIDDEN


def change_of(wanted: FileValues) -> Change:
    """Return the change that sets these values. Raises `CannotEdit` and `OSError`."""
    before, mode = _read(wanted.path)
    try:
        text = set_values(wanted.form, (before or b"").decode("utf-8"), wanted.values)
    except UnicodeDecodeError as error:
        raise CannotEdit("it is no UTF-8 text") from error
    after_mode = mode if before is not None else NEW_MODE
    shown = frozenset(_texts(list(wanted.values.values()))) if wanted.holds_key else None
    return Change(wanted.path, before, text.encode(), mode, FILE_MODE if wanted.holds_key else after_mode, shown)


def _texts(value: object) -> Iterator[str]:
    match value:
        case dict():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)
        case _:
            yield str(value)


def _read(path: Path) -> tuple[bytes | None, int]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
            mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None, 0
    if len(content) > MOST_BYTES:
        raise CannotEdit("it is too long")
    return content, mode
