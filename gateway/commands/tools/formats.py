"""Setting values in JSON, YAML, TOML and .env files: comments, order and everything else stay as they are.

A value is named by its path: names of fields, and `Named` for the item of a list that has a certain field. What was
written is read again and compared; a text that can't be changed safely raises `CannotEdit`, and stays as it is.
"""

import json
import re
import textwrap
import tomllib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from billing.errors import MetergateError
from gateway.commands.tools.settings import Named, ValuePath, Values


class CannotEdit(MetergateError):
    """A text has a form in which its values can't be set safely."""


def set_values(form: str, text: str, values: Values) -> str:
    """Return the text with these values. `form` is json, yaml, toml or env. Raises `CannotEdit`."""
    read, write = _FORMATS[form]
    try:
        expected = read(text)
        for path, value in values.items():
            expected = _with(expected, path, value)
        for path, value in values.items():
            text = write(text, path, value)
        if read(text) == expected:
            return text
    except (ValueError, yaml.YAMLError, UnusualForm) as error:
        raise CannotEdit("its form can't be changed safely") from error
    raise CannotEdit("its form can't be changed safely")


class UnusualForm(MetergateError):
    """A part of a file that is written in a way that is left alone."""


def _with(found: Any, path: ValuePath, value: Any) -> Any:
    """Return what was read, with a value in its place."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, Named):
        items = deepcopy(found) if found is not None else []
        if not isinstance(items, list):
            raise UnusualForm
        at = next((at for at, item in enumerate(items) if _is_named(item, step)), None)
        if at is None:
            return [*items, _with(None, rest, value)]
        items[at] = _with(items[at], rest, value)
        return items
    if found is not None and not isinstance(found, dict):
        raise UnusualForm
    fields = dict(found or {})
    fields[step] = _with(fields.get(step), rest, value)
    return fields


def _is_named(item: Any, named: Named) -> bool:
    return isinstance(item, dict) and item.get(named.field) == named.value


def _around(path: ValuePath, value: Any) -> Any:
    """Return a value inside what its path says."""
    for step in reversed(path):
        value = [value] if isinstance(step, Named) else {step: value}
    return value


# JSON, also with comments and commas at the end of lists, as several tools read it

_SPACE: Final = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,:\[\]{}"/]+')


@dataclass
class _Node:
    """A value in a JSON text: where it stands, and what is in it. Members are (name, where it begins, value)."""

    start: int
    end: int
    value: Any = None
    members: list[tuple[str, int, "_Node"]] = field(default_factory=list)
    comma: bool = False
    """Whether a comma stands after the last member."""


def _parse_json(text: str) -> _Node:
    at = _skip(text, 0)
    node = _node(text, at)
    if _skip(text, node.end) != len(text):
        raise UnusualForm
    return node


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _node(text: str, at: int) -> _Node:
    opened = text[at : at + 1]
    if opened not in ("{", "["):
        scalar = _SCALAR.match(text, at)
        if scalar is None:
            raise UnusualForm
        return _Node(at, scalar.end(), json.loads(scalar[0]))
    node, closed = _Node(at, at), "}" if opened == "{" else "]"
    at = _skip(text, at + 1)
    while text[at : at + 1] != closed:
        begins, name = at, ""
        if opened == "{":
            label = _SCALAR.match(text, at)
            if label is None or not label[0].startswith('"'):
                raise UnusualForm
            name, at = json.loads(label[0]), _skip(text, label.end())
            if text[at : at + 1] != ":":
                raise UnusualForm
            at = _skip(text, at + 1)
        member = _node(text, at)
        node.members.append((name, begins, member))
        at = _skip(text, member.end)
        node.comma = text[at : at + 1] == ","
        if node.comma:
            at = _skip(text, at + 1)
        elif text[at : at + 1] != closed:
            raise UnusualForm
    node.end = at + 1
    values = [member.value for _, _, member in node.members]
    node.value = dict(zip((name for name, _, _ in node.members), values, strict=True)) if opened == "{" else values
    return node


def _read_json(text: str) -> Any:
    return _parse_json(text).value if text.strip() else None


def _set_json(text: str, path: ValuePath, value: Any) -> str:
    if not text.strip():
        return json.dumps(_around(path, value), indent=2, ensure_ascii=False) + "\n"
    node, depth = _parse_json(text), 1
    indent = _indent_of(text)
    while path:
        inner = _member(node, path[0])
        if inner is None:
            return _insert_json(text, node, path, value, (indent, depth))
        node, path, depth = inner, path[1:], depth + 1
    return text[: node.start] + _dumped_json(value, indent, depth - 1) + text[node.end :]


def _member(node: _Node, step: str | Named) -> _Node | None:
    if isinstance(step, Named):
        if not isinstance(node.value, list):
            raise UnusualForm
        return next((inner for _, _, inner in node.members if _is_named(inner.value, step)), None)
    if not isinstance(node.value, dict):
        raise UnusualForm
    return next((inner for name, _, inner in reversed(node.members) if name == step), None)


def _insert_json(text: str, node: _Node, path: ValuePath, value: Any, place: tuple[str, int]) -> str:
    indent, depth = place
    step, value = path[0], _around(path[1:], value)
    label = "" if isinstance(step, Named) else json.dumps(step, ensure_ascii=False) + ": "
    line = f"\n{indent * depth}{label}{_dumped_json(value, indent, depth)}"
    if not node.members:
        inside = text[node.start + 1 : node.end - 1].rstrip()  # a comment, perhaps
        return f"{text[: node.start + 1]}{inside}{line}\n{indent * (depth - 1)}{text[node.end - 1 :]}"
    end = node.members[-1][2].end
    if node.comma:
        end = text.index(",", _skip(text, end)) + 1
        return text[:end] + line + text[end:]
    return f"{text[:end]},{line}{text[end:]}"


def _dumped_json(value: Any, indent: str, depth: int) -> str:
    lines = json.dumps(value, indent=indent, ensure_ascii=False).split("\n")
    return f"\n{indent * depth}".join(lines)


def _indent_of(text: str) -> str:
    found = re.search(r"^[{\[]\s*?\n([ \t]+)\S", text.lstrip(), re.MULTILINE)
    return found[1] if found else "  "


# YAML, in block style


# What ends a line in YAML 1.1, beside those of ASCII.
_BREAKS: Final = frozenset("\x85\u2028\u2029")


def _read_yaml(text: str) -> Any:
    return yaml.safe_load(text)


def _set_yaml(text: str, path: ValuePath, value: Any) -> str:
    node = yaml.compose(text, yaml.SafeLoader)
    if node is None:
        return _ended(text) + _dumped_yaml(_around(path, value), 0)
    while path:
        step = path[0]
        if isinstance(step, Named):
            inner = _item(node, step)
            begins, ends, column = (inner.start_mark, _end(inner), node.start_mark.column) if inner else (None, 0, 0)
            shown: Any = [_around(path[1:], value)]
        else:
            label, inner = _entry(node, step)
            begins, ends, column = (label.start_mark, _end(inner), label.start_mark.column) if inner else (None, 0, 0)
            shown = {step: _around(path[1:], value)}
        if begins is None:
            return _insert_yaml(text, node, shown)
        if len(path) == 1:
            start = begins.index - (begins.column - column)
            return text[:start] + _dumped_yaml(shown, column).strip() + text[ends:]
        if _is_empty(inner):
            return text[: begins.index] + _dumped_yaml(shown, column).strip() + text[ends:]
        node, path = inner, path[1:]
    raise UnusualForm


def _entry(node: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise UnusualForm
    return next(((label, inner) for label, inner in node.value if label.value == name), (None, None))


def _item(node: Any, named: Named) -> Any:
    if not isinstance(node, yaml.SequenceNode) or node.flow_style:
        raise UnusualForm
    for item in node.value:
        if isinstance(item, yaml.MappingNode) and any(
            label.value == named.field and inner.value == named.value for label, inner in item.value
        ):
            return item
    return None


def _is_empty(node: Any) -> bool:
    return node.value in ([], "", "null", "~") and not (isinstance(node, yaml.ScalarNode) and node.style)


def _insert_yaml(text: str, node: Any, shown: Any) -> str:
    ends = _end(node)
    line = text.find("\n", ends)
    ends = len(text) if line < 0 else line + 1
    return _ended(text[:ends]) + _dumped_yaml(shown, node.start_mark.column) + text[ends:]


def _end(node: Any) -> int:
    """Return where a node's own text ends: PyYAML counts what follows a block to it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _dumped_yaml(value: Any, column: int) -> str:
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 1000}
    dumped = str(yaml.safe_dump(value, allow_unicode=True, **style))
    if not _BREAKS.isdisjoint(dumped):  # they would end lines: escaped they end none
        dumped = str(yaml.safe_dump(value, allow_unicode=False, **style))
    return textwrap.indent(dumped, " " * column)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


# TOML: fields before the first table, and whole tables


def _set_toml(text: str, path: ValuePath, value: Any) -> str:
    names = [str(step) for step in path]
    if not isinstance(value, dict):
        if len(names) != 1:
            raise UnusualForm
        return _set_toml_field(text, names[0], value)
    header = f"[{'.'.join(names)}]"
    table = "".join(f"{name} = {_dumped_toml(each)}\n" for name, each in value.items())
    lines = text.splitlines(keepends=True)
    begins = next((at for at, line in enumerate(lines) if line.split("#")[0].strip() == header), None)
    if begins is None:
        return f"{_ended(text)}{chr(10) if text.strip() else ''}{header}\n{table}"
    ends = next((at for at in range(begins + 1, len(lines)) if lines[at].lstrip().startswith("[")), len(lines))
    while ends > begins + 1 and (not lines[ends - 1].strip() or lines[ends - 1].lstrip().startswith("#")):
        ends -= 1
    return "".join(lines[: begins + 1]) + table + "".join(lines[ends:])


def _set_toml_field(text: str, name: str, value: Any) -> str:
    lines = _ended(text).splitlines(keepends=True)
    first = next((at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    made = f"{name} = {_dumped_toml(value)}\n"
    for at in range(first):
        if re.match(rf"\s*{re.escape(name)}\s*=", lines[at]):
            return "".join((*lines[:at], made, *lines[at + 1 :]))
    while first and not lines[first - 1].strip():
        first -= 1
    after = "\n" if lines[first:] and lines[first].strip() else ""
    return "".join((*lines[:first], made, after, *lines[first:]))


def _dumped_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_dumped_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumped_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans of TOML are written so, too


# .env


_VARIABLE: Final = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)


def _read_env(text: str) -> dict[str, str]:
    return {name: value.strip("'\"") for name, value in _VARIABLE.findall(text)}


def _set_env(text: str, path: ValuePath, value: Any) -> str:
    (name,) = path
    made = f"{name}={value}"
    for found in _VARIABLE.finditer(text):
        if found[1] == name:
            return text[: found.start()] + made + text[found.end() :]
    return f"{_ended(text)}{made}\n"


_FORMATS: Final[dict[str, tuple[Callable[[str], Any], Callable[[str, ValuePath, Any], str]]]] = {
    "json": (_read_json, _set_json),
    "yaml": (_read_yaml, _set_yaml),
    "toml": (tomllib.loads, _set_toml),
    "env": (_read_env, _set_env),
}
