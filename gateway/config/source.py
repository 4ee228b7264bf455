"""YAML with line numbers and `${VAR}`. This file owns how a value in a file is read and how a wrong one is reported.

Files are composed into nodes, not loaded into objects: a node knows its line, and a scalar its text as written, so
that `0.15` is never a float on its way to a price and a date may stand with or without quotes. Reading notes a problem,
gives the default and goes on; what builds a value from a section checks `ok` first.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import yaml

from gateway.config.problems import Problems, Unset, expand, nearest, refers

SHOWN_CHARACTERS: Final = 60

T = TypeVar("T")
_TAG: Final = "tag:yaml.org,2002:"
_NULL: Final = f"{_TAG}null"
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
        """Return the place of the value: its file and line."""
        return f"{self.file.shown}:{self.line}"

    def problem(self, message: str) -> None:
        """Note a problem at this value."""
        self.file.problems.add(self.where, self.key, message)

    def expected(self, what: str, hint: str = "", *, secret: bool = False) -> None:
        """Note that something else was expected; the text is shown as written, unless it may be a secret."""
        self.problem(f"expected {what}" if secret else f"expected {what}, got {self.shown}{hint}")

    @property
    def shown(self) -> str:
        """Return the value as the file writes it: a variable by its name, a string in quotes, bounded in length."""
        if not isinstance(self.node, yaml.ScalarNode):
            return "a mapping" if isinstance(self.node, yaml.MappingNode) else "a list"
        written: str = self.node.value
        text = written if len(written) <= SHOWN_CHARACTERS else written[:SHOWN_CHARACTERS] + "..."
        if self._is("null"):
            return "nothing"
        return f'"{text}"' if self._is("str") else text

    @property
    def is_null(self) -> bool:
        """Return whether the value is null."""
        return bool(self.node.tag == _NULL)

    @property
    def is_string(self) -> bool:
        """Return whether the value is a string."""
        return isinstance(self.node, yaml.ScalarNode) and self._is("str")

    @property
    def is_empty(self) -> bool:
        """Return whether the value is an empty text."""
        return self.is_string and not self.node.value

    @property
    def is_mapping(self) -> bool:
        """Return whether the value is a mapping."""
        return isinstance(self.node, yaml.MappingNode)

    def _is(self, *kinds: str) -> bool:
        tag: str = self.node.tag
        return tag[len(_TAG) :] in kinds and tag.startswith(_TAG)

    @property
    def has_reference(self) -> bool:
        """Return whether the text has a reference to a variable."""
        return isinstance(self.node, yaml.ScalarNode) and refers(self.node.value)

    @property
    def is_nothing(self) -> bool:
        """Return whether variables alone make up this value, and stand for an empty text."""
        try:
            return self.has_reference and not self.expand()
        except (Unset, ValueError):
            return False

    def expand(self) -> str:
        """Return a scalar's text with its variables replaced. Raises `Unset` and `ValueError`, see
        `references.expand`."""
        return expand(self.node.value, self.file.environ)

    def scalar(self, what: str) -> str | None:
        """Return the text of a scalar of any kind, expanded; None (and a problem) for anything else."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_null:
            self.expected(what)
            return None
        try:
            return self.expand()
        except (Unset, ValueError) as error:
            self.problem(str(error))
            return None

    def text(self, what: str = "a text", pattern: str | None = None, *, bare: bool = False) -> str | None:
        """Return a string that a pattern is found in; numbers, dates and truths are not taken for one, unless they may
        stand `bare`."""
        if isinstance(self.node, yaml.ScalarNode) and not bare and not self._is("str", "null"):
            self.expected(what)
            return None
        text = self.scalar(what)
        if text is not None and pattern is not None and not re.search(pattern, text, re.ASCII):
            self.expected(what)
            return None
        return text

    def whole(self, low: float, high: float) -> int | None:
        """Return a whole number within bounds, written as one or given by a variable."""

        def parse(text: str) -> int | None:
            return int(text) if _WHOLE.fullmatch(text) and low <= int(text) <= high else None

        return self._typed(("int",), f"a whole number from {low} to {high}", parse)

    def number(self, low: float, high: float) -> float | None:
        """Return a number of seconds or the like within bounds; never for money."""

        def parse(text: str) -> float | None:
            return float(text) if _NUMBER.fullmatch(text) and low <= float(text) <= high else None

        return self._typed(("int", "float"), f"a number from {low:g} to {high:g}", parse)

    def truth(self) -> bool | None:
        """Return a truth, given as YAML writes one or by a variable."""
        return self._typed(("bool",), "true or false", lambda text: _TRUTHS.get(text.lower()))

    def _typed(self, kinds: tuple[str, ...], what: str, parse: Callable[[str], T | None]) -> T | None:
        """Return a scalar that YAML takes for one of these kinds, or that a variable gives, by a parser."""
        if not self._is(*kinds) and not self.has_reference:
            self.expected(what)
            return None
        text = self.scalar(what)
        value = None if text is None else parse(text)
        if text is not None and value is None:
            self.expected(what)
        return value

    def choice(self, names: Collection[str]) -> str | None:
        """Return one of a few words."""
        what = f"one of {', '.join(names)}"
        text = self.scalar(what)
        if text is not None and text not in names:
            self.expected(what)
            return None
        return text

    def decimal(self, parse: Callable[[object], int], example: str) -> int | None:
        """Return a decimal string by a parser that raises `ValueError`. A bare number is refused: to YAML it is a
        float."""
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

    def plain(self) -> object:
        """Return a scalar as Python would have it (None, bool, int, float, str), for a parser that checks types
        itself."""
        text = None if self.is_null else self.scalar("a single value")
        if text is None:
            return None
        if self._is("int") and _WHOLE.fullmatch(text):
            return int(text)
        if self._is("bool"):
            return _TRUTHS[text.lower()]
        return float("nan") if self._is("float") else text

    def items(self) -> list["Value"]:
        """Return the values of a list; a problem for anything else."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expected("a list")
            return []
        nodes = enumerate(self.node.value)
        return [Value(self.file, f"{self.key}[{index}]", node, node.start_mark.line + 1) for index, node in nodes]

    def names(self, what: str, pattern: str | None = None) -> tuple[str, ...]:
        """Return a list of texts, each once."""
        texts: list[str] = []
        for item in self.items():
            text = item.text(what, pattern)
            if text is not None and text in texts:
                item.problem(f"{text} stands here twice")
            elif text is not None:
                texts.append(text)
        return tuple(texts)

    def entries(self) -> dict[str, "Value"]:
        """Return the values of a mapping by name; a problem for anything else, and for a name that is given twice."""
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
        """Return the names of a mapping, without a look at what they stand for; nothing for anything else."""
        pairs = self.node.value if self.is_mapping else ()
        return tuple(name.value for name, _ in pairs if isinstance(name, yaml.ScalarNode))

    def key_of(self, name: str) -> str:
        """Return the key below this one as messages name it."""
        return f"{self.key}.{name}" if self.key else name

    def missing(self, name: str) -> None:
        """Note that a key is missing below this one."""
        self.file.problems.add(self.where, self.key_of(name), "missing")

    def section(self, known: Collection[str], required: Collection[str] = ()) -> "Section":
        """Return a mapping with known keys; problems for others and for required ones that are missing."""
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
        """Return what a parser makes of the value of a key."""
        value = self.present(name)
        read = None if value is None else how(value)
        return default if read is None else read

    def maybe(self, name: str, how: Callable[[Value], T | None]) -> T | None:
        """Return as `read`, None for the default."""
        value = self.present(name)
        return None if value is None else how(value)

    def present(self, name: str) -> Value | None:
        """Return a key's value, or None where it is absent, null, or a variable that stands for nothing
        (`${NAME:-}`)."""
        value = self.values.get(name)
        return None if value is None or value.is_null or value.is_nothing else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def restrict(self, known: Collection[str]) -> None:
        """Note problems for keys that are not known."""
        for name, value in self.values.items():
            if name not in known:
                value.problem(f"unknown key{nearest(name, known)}")

    def require(self, names: Collection[str]) -> None:
        """Note problems for keys that are absent, null or an empty text."""
        for name in names:
            if name not in self.values or self.values[name].is_null or self.values[name].is_empty:
                self.at.missing(name)

    @property
    def ok(self) -> bool:
        """Return whether nothing in this section was wrong so far."""
        return len(self.at.file.problems) == self.problems_before
