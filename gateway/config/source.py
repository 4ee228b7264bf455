"""YAML with line numbers and `${VAR}`. This file owns how a value in a file is read and how a wrong one is reported.

Files are composed into nodes, not loaded into objects: a node knows its line, and a scalar its text as written, so
that `0.15` is never a float on its way to a price and a date may stand with or without quotes. Reading notes a problem,
gives the default and goes on; whoever builds a value from a section asks `ok` first.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, TypeVar

import yaml

from gateway.config.problems import NO_EFFECT, Problems, nearest
from gateway.config.references import Unset, expand, refers

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
SHOWN_CHARACTERS: Final = 60

T = TypeVar("T")
_TAG: Final = "tag:yaml.org,2002:"
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(\.\d{1,9})?", re.ASCII)
_TRUTHS: Final = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file while it is read: its name as shown to the operator, and what `${VAR}` means in it."""

    shown: str
    environ: Mapping[str, str]
    problems: Problems


@dataclass(frozen=True, slots=True)
class Value:
    """A node of a file and the key that leads to it. `line` (from 1) is that of its name, where it has one."""

    file: SourceFile
    key: str
    node: yaml.Node
    line: int

    @property
    def where(self) -> str:
        return f"{self.file.shown}:{self.line}"

    def problem(self, message: str) -> None:
        self.file.problems.add(self.where, self.key, message)

    def no_effect(self) -> None:
        """Notes that nothing acts on this key, which stops nothing."""
        self.file.problems.note(self.where, self.key, NO_EFFECT)

    def expected(self, what: str, hint: str = "", *, secret: bool = False) -> None:
        """Notes that something else was expected; the text is shown as written, unless it may be a secret."""
        self.problem(f"expected {what}" if secret else f"expected {what}, got {self.shown}{hint}")

    @property
    def shown(self) -> str:
        """The value as the file writes it: a variable by its name, a string in quotes, bounded in length."""
        if not isinstance(self.node, yaml.ScalarNode):
            return "a mapping" if isinstance(self.node, yaml.MappingNode) else "a list"
        written: str = self.node.value
        text = written if len(written) <= SHOWN_CHARACTERS else written[:SHOWN_CHARACTERS] + "..."
        if self._is("null"):
            return "nothing"
        return f'"{text}"' if self._is("str") else text

    @property
    def is_null(self) -> bool:
        return self._is("null")

    @property
    def is_string(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self._is("str")

    @property
    def is_empty(self) -> bool:
        return self.is_string and not self.node.value

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    def _is(self, *kinds: str) -> bool:
        return self.node.tag in {_TAG + kind for kind in kinds}

    @property
    def has_reference(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and refers(self.node.value)

    @property
    def is_nothing(self) -> bool:
        """Whether variables alone make up this value, and stand for an empty text."""
        try:
            return self.has_reference and not self.expand()
        except (Unset, ValueError):
            return False

    def expand(self) -> str:
        """A scalar's text with its variables replaced. Raises `Unset` and `ValueError`, see `references.expand`."""
        return expand(self.node.value, self.file.environ)

    def scalar(self, what: str) -> str | None:
        """The text of a scalar of any kind, expanded; None (and a problem) for anything else."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_null:
            self.expected(what)
            return None
        try:
            return self.expand()
        except (Unset, ValueError) as error:
            self.problem(str(error))
            return None

    def text(self, what: str = "a text") -> str | None:
        """A string; numbers, dates and truths are not taken for one."""
        if isinstance(self.node, yaml.ScalarNode) and not self._is("str", "null"):
            self.expected(what)
            return None
        return self.scalar(what)

    def whole(self, low: int, high: int) -> int | None:
        """A whole number within bounds, written as one or given by a variable."""

        def parse(text: str) -> int | None:
            return int(text) if _WHOLE.fullmatch(text) and low <= int(text) <= high else None

        return self._typed(("int",), f"a whole number from {low} to {high}", parse)

    def number(self, low: float, high: float) -> float | None:
        """A number of seconds or the like within bounds; never for money."""

        def parse(text: str) -> float | None:
            return float(text) if _NUMBER.fullmatch(text) and low <= float(text) <= high else None

        return self._typed(("int", "float"), f"a number from {low:g} to {high:g}", parse)

    def truth(self) -> bool | None:
        return self._typed(("bool",), "true or false", lambda text: _TRUTHS.get(text.lower()))

    def _typed(self, kinds: tuple[str, ...], what: str, parse: Callable[[str], T | None]) -> T | None:
        """A scalar that YAML takes for one of these kinds, or that a variable gives, by a parser."""
        if not self._is(*kinds) and not self.has_reference:
            self.expected(what)
            return None
        text = self.scalar(what)
        value = None if text is None else parse(text)
        if text is not None and value is None:
            self.expected(what)
        return value

    def choice(self, names: Collection[str]) -> str | None:
        what = f"one of {', '.join(names)}"
        text = self.scalar(what)
        if text is not None and text not in names:
            self.expected(what)
            return None
        return text

    def decimal(self, parse: Callable[[object], int], example: str) -> int | None:
        """A decimal string by a parser that raises `ValueError`. A bare number is refused: to YAML it is a float."""
        what = f'a decimal string such as "{example}"'
        if self._is("int", "float"):
            self.problem(f"expected {what}, got {self.shown}; put it in quotes")
            return None
        text = self.text(what)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.problem(f"expected {what}, got {self.shown} ({error})")
            return None

    def day(self) -> date | None:
        what = 'a date such as "2024-07-18"'
        text = self.scalar(what)
        if text is None:
            return None
        try:
            return date.fromisoformat(text)
        except ValueError:
            self.expected(what)
            return None

    def plain(self) -> object:
        """A scalar as Python would have it (None, bool, int, float, str), for a parser that checks types itself."""
        text = None if self.is_null else self.scalar("a single value")
        if text is None:
            return None
        if self._is("int") and _WHOLE.fullmatch(text):
            return int(text)
        if self._is("bool"):
            return _TRUTHS[text.lower()]
        return float("nan") if self._is("float") else text

    def items(self) -> list["Value"]:
        """The values of a list; a problem for anything else."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expected("a list")
            return []
        nodes = enumerate(self.node.value)
        return [Value(self.file, f"{self.key}[{place}]", node, node.start_mark.line + 1) for place, node in nodes]

    def names(self, what: str) -> tuple[str, ...]:
        """A list of texts, each once."""
        texts: list[str] = []
        for item in self.items():
            text = item.text(what)
            if text is not None and text in texts:
                item.problem(f"{text} stands here twice")
            elif text is not None:
                texts.append(text)
        return tuple(texts)

    def entries(self) -> dict[str, "Value"]:
        """The values of a mapping by name; a problem for anything else, and for a name that is given twice."""
        if not isinstance(self.node, yaml.MappingNode):
            self.expected("a mapping")
            return {}
        found: dict[str, Value] = {}
        for name_node, node in self.node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            value = Value(self.file, self.key_of(name), node, name_node.start_mark.line + 1)
            if not name:
                value.problem("expected a name")
            elif name in found:
                value.problem("given twice")
            else:
                found[name] = value
        return found

    @property
    def child_names(self) -> tuple[str, ...]:
        """The names of a mapping, without a look at what they stand for; nothing for anything else."""
        pairs = self.node.value if self.is_mapping else ()
        return tuple(name.value for name, _ in pairs if isinstance(name, yaml.ScalarNode))

    def key_of(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def section(self, known: Collection[str], required: Collection[str] = ()) -> "Section":
        """A mapping with known keys; problems for others and for required ones that are missing."""
        before = len(self.file.problems)
        section = Section(self, self.entries(), before)
        if self.is_mapping:
            section.restrict(known)
            section.require(required)
        return section


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys. `read` gives a key's value, or the default where it is absent, null or wrong."""

    at: Value
    values: Mapping[str, Value]
    problems_before: int

    def read(self, name: str, how: Callable[[Value], T | None], default: T) -> T:
        value = self.present(name)
        read = None if value is None else how(value)
        return default if read is None else read

    def maybe(self, name: str, how: Callable[[Value], T | None]) -> T | None:
        """As `read`, None for the default."""
        value = self.present(name)
        return None if value is None else how(value)

    def present(self, name: str) -> Value | None:
        """A key's value, or None where it is absent, null, or a variable that stands for nothing (`${NAME:-}`)."""
        value = self.values.get(name)
        return None if value is None or value.is_null or value.is_nothing else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def restrict(self, known: Collection[str]) -> None:
        """Problems for keys that are not known."""
        for name, value in self.values.items():
            if name not in known:
                value.problem(f"unknown key{nearest(name, known)}")

    def require(self, names: Collection[str]) -> None:
        """Problems for keys that are absent, null or an empty text."""
        for name in names:
            if name not in self.values or self.values[name].is_null or self.values[name].is_empty:
                self.at.file.problems.add(self.at.where, self.at.key_of(name), "missing")

    @property
    def ok(self) -> bool:
        """Whether nothing in this section was wrong so far."""
        return len(self.at.file.problems) == self.problems_before


def read_file(path: Path, shown: str, environ: Mapping[str, str], problems: Problems) -> Value | None:
    """The root of a YAML file, or None and a problem: unreadable, empty, not YAML, several documents."""
    file = SourceFile(shown, environ, problems)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.add(shown, "", f"larger than {MAX_FILE_BYTES} bytes")
            return None
        root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        problems.add(shown, "", "no such file")
    except (OSError, UnicodeDecodeError) as error:
        problems.add(shown, "", f"can't be read: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(f"{shown}:{mark.line + 1}" if mark else shown, "", f"not YAML: {error.problem or error.context}")
    except yaml.YAMLError:
        problems.add(shown, "", "not YAML: a character that YAML doesn't allow")
    else:
        if root is None:
            problems.add(shown, "", "empty")
            return None
        return Value(file, "", root, root.start_mark.line + 1)
    return None
