"""YAML with line numbers and `${VAR}`; and what is wrong with a configuration, every problem at once with its place.
This file owns how a value in a file is read, how a wrong one is reported, and what a reference is, `${VAR}` or
`${VAR:-default}`. No message holds a secret's text.

Files are composed into nodes, not loaded into objects: a node knows its line, and a scalar its text as written, so
that `0.15` is never a float on its way to a price and a date may stand with or without quotes. Reading notes a problem,
gives the default and goes on; what builds a value from a section checks `ok` first.

Sections are structs: a struct's fields are the keys of its section, and their types what each may be. Bounds stand in
`msgspec.Meta`. A type that they can't express has a reader of its own, `Annotated[int, read_by(usd)]`.

The three files of the configuration stand in one folder. Imports little, so that a command that reads one file does not
wait for the settings' imports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, structs

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
        `problems.expand`."""
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

    def items(self) -> list[Value]:
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

    def entries(self) -> dict[str, Value]:
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

    def section(self, known: Collection[str], required: Collection[str] = ()) -> Section:
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


S = TypeVar("S", bound=msgspec.Struct)
Read = Callable[["Value"], Any]


def read_by(read: Read, *, null: bool = False) -> Meta:
    """Have a value read by a function that notes what is wrong and then returns None, where it may also be null."""
    return Meta(extra={"read": read, "null": null})


def decimal(parse: Callable[[object], int], example: str) -> Meta:
    """Have a decimal string read by a parser that raises `ValueError`."""
    return read_by(lambda value: value.decimal(parse, example))


def names(most: int, what: str = "names") -> Meta:
    """Bound a list, and call its items what they are."""
    return Meta(max_length=most, extra={"items": what})


def text(what: str, pattern: str | None = None, *, bare: bool = False, allowed: str = "") -> Meta:
    """Call a text what it is, in messages; `pattern` matches all of it. One that may stand `bare` needs no quotes where
    it looks like a number."""
    whole = None if pattern is None else rf"^(?:{pattern})\Z"
    return Meta(extra={"what": what, "bare": bare, "allowed": allowed}, pattern=whole)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may be: a type without what is around it, the bounds in its `Meta`s, and whether null is allowed."""

    type: Any
    optional: bool
    metas: tuple[Meta, ...]

    def bound(self, name: str) -> Any:
        """Return one bound of the type, None where it has none."""
        return next((found for meta in self.metas if (found := getattr(meta, name)) is not None), None)

    def said(self, name: str) -> Any:
        """Return what is said of the type beside its bounds."""
        return next((meta.extra[name] for meta in self.metas if meta.extra and name in meta.extra), None)

    @property
    def allowed(self) -> str:
        """Return what it may be in words, for messages and the documentation."""
        if told := self.said("allowed"):
            return str(told)
        if self.type is bool:
            return "true, false"
        if get_origin(self.type) is Literal:
            return ", ".join(get_args(self.type))
        if self.type in (int, float):
            range_ = f"{self.bound('ge'):,.10g} to {self.bound('le'):,.10g}"
            return range_ + (", or null" if self.optional else "")
        if get_origin(self.type) is tuple:
            return f"a list of at most {self.bound('max_length')} names"
        return str(self.said("what") or "a text")

    def read(self, value: Value) -> Any:
        """Return what stands in a file; None for what is wrong, which is noted."""
        read: Read | None = self.said("read")
        if read is not None:
            return read(value)
        if self.type is bool:
            return value.truth()
        if self.type is int:
            return value.whole(self.bound("ge"), self.bound("le"))
        if self.type is float:
            return value.number(self.bound("ge"), self.bound("le"))
        if get_origin(self.type) is Literal:
            return value.choice(get_args(self.type))
        if get_origin(self.type) is tuple:
            return self._list(value)
        if self.type is str:
            return value.text(self.said("what") or "a text", self.bound("pattern"), bare=bool(self.said("bare")))
        return read_section(value, self.type)

    def _list(self, value: Value) -> tuple[Any, ...]:
        """Return the items of a list, of texts each once."""
        item, most = kind_of(get_args(self.type)[0]), self.bound("max_length")
        if item.type is str:
            found = value.names(item.said("what") or "a text", item.bound("pattern"))
        else:
            found = tuple(each for part in value.items() if (each := item.read(part)) is not None)
        if most is not None and len(found) > most:
            value.problem(f"at most {most} {self.said('items') or 'names'}")
        return found


@cache
def kind_of(annotation: Any) -> Kind:
    """Return what a field of this type may be."""
    if get_origin(annotation) in (Union, UnionType):
        inner = kind_of(next(each for each in get_args(annotation) if each is not NoneType))
        return Kind(inner.type, True, inner.metas)
    if get_origin(annotation) is Annotated:
        plain, *metas = get_args(annotation)
        inner = kind_of(plain)
        return Kind(inner.type, inner.optional, (*inner.metas, *metas))
    return Kind(annotation, False, ())


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section, the field that it is for, and what it may be."""

    field: structs.FieldInfo
    kind: Kind


@cache
def keys_of(struct: type[msgspec.Struct]) -> dict[str, Key]:
    """Return the keys of a section by their names."""
    return {
        each.encode_name: Key(each, kind)
        for each in structs.fields(struct)
        if not (kind := kind_of(each.type)).said("derived")
    }


def read_section(at: Value, struct: type[S], **made: Any) -> S | None:
    """Return a section as a struct; None where anything in it is wrong, which is noted. `made` are fields that it has
    no keys for."""
    keys = {name: key for name, key in keys_of(struct).items() if key.field.name not in made}
    section = at.section(keys, [name for name, key in keys.items() if key.field.required])
    for name, key in keys.items():
        if name not in section.values:
            continue
        value = section.values[name] if key.kind.said("null") else section.present(name)
        found = None if value is None else key.kind.read(value)
        if found is not None:
            made[key.field.name] = found
    return struct(**made) if section.ok else None


MAIN_FILE: Final = "metergate.yaml"
PRICES_FILE: Final = "prices.yaml"
PLANS_FILE: Final = "plans.yaml"
LOCAL_FOLDER: Final = Path("config")
# Part of the package, so that an installation from a wheel serves without files of its own.
SHIPPED_FOLDER: Final = Path(__file__).parent / "shipped"
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
# libyaml's where PyYAML was built with it: a price table takes a tenth of the time.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FILES: Final = (MAIN_FILE, PRICES_FILE, PLANS_FILE)

# A file's time of change in nanoseconds, its bytes and its inode.
FileMarks = tuple[int, int, int]


def file_marks(path: Path) -> FileMarks:
    """Return what tells one content of a file from another; zeros where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(path: Path, shown: str, environ: Mapping[str, str], problems: Problems) -> Value | None:
    """Return the root of a YAML file, or None and a problem: unreadable, empty, not YAML, several documents."""
    file = SourceFile(shown, environ, problems)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.add(shown, "", f"larger than {MAX_FILE_BYTES} bytes")
            return None
        root = yaml.compose(path.read_text("utf-8"), Loader=_LOADER)
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


def find_folder(named: Path | None) -> Path:
    """Return the folder that METERGATE_CONFIG names, else `./config` if it has any of the files, else the shipped
    one."""
    if named is not None:
        return named
    here = any((LOCAL_FOLDER / name).is_file() for name in FILES)
    return LOCAL_FOLDER.absolute() if here else SHIPPED_FOLDER
