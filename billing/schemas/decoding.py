"""JSON of a caller as a shape, and what is wrong with it, in words for whoever wrote it.

A whole number may be written as JSON has it: `95`, `95.0` or `9.5e1`. JSON does not tell these apart (RFC 8259, 6), and
the integers of JSON Schema have all three. msgspec takes the first alone, so that a body which it refuses is read again
with such numbers in their plain form. Money is a string in every shape: no amount passes through a float.

msgspec's own text ("Expected `int`, got `str` - at `$.x`") is for programmers: nobody else reads it. `mismatch` says
the same with the field's name, and what the field's shape says of its values; `unreadable` says where JSON breaks off.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

# What decoding JSON that others wrote may raise.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MAY_BE_WHOLE: Final = re.compile(rb"\d(?:\.0|[eE])")
# Up to here a double has every whole number.
_EXACT: Final = 2**53


def decode_shape(body: bytes | msgspec.Raw, model: type[T]) -> T:
    """Return JSON as `model`. Raises `msgspec.DecodeError`, `UnicodeDecodeError` and `RecursionError`."""
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError:
        if _MAY_BE_WHOLE.search(body) is None:
            raise
        return msgspec.json.decode(msgspec.json.encode(_plain(msgspec.json.decode(body))), type=model)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case float() if value.is_integer() and abs(value) <= _EXACT:
            return int(value)
    return value


_PLACE: Final = re.compile(r"(.*?)(?: - at (`key` in )?`\$([^`]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]+)`")
_KIND: Final = re.compile(r"Expected `([^`]+)`(.*?)(?:, got `?([^`]+)`?)?", re.DOTALL)
_BOUND: Final = re.compile(r" of length (<=|>=|==) ([0-9]+)| (<=|>=|<|>) ([-0-9.e+]+)| that's a multiple of ([0-9.]+)")
_BLANK: Final = " matching regex " + repr(r"\S")
_BYTE: Final = re.compile(r"\(byte ([0-9]+)\)")
_FIRST: Final = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)")
_OF_MSGSPEC: Final = ("Expected ", "Invalid ", "Object ", "Integer value ", "Number ", "Array ", "`")
# What msgspec's names of kinds are called.
_KINDS: Final = {
    **{"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"},
    **{"array": "a list", "object": "an object", "null": "null", "bytes": "a text in base64"},
}
# What JSON Schema's names of kinds are called.
_WORDS: Final = {
    **{"string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false"},
    **{"array": "a list", "object": "an object"},
}
_PARTS: Final = {"str": "characters", "array": "items", "object": "fields"}
_COMPARED: Final = {"<=": "at most", ">=": "at least", "==": "exactly", "<": "below", ">": "above"}


def mismatch(error: msgspec.ValidationError, model: Any) -> tuple[str, str | None]:
    """Return what is wrong with a value that is not of this shape, as a sentence, and the field that is to blame, None
    where that is the whole."""
    text, in_key, path = _split(str(error))
    if (missing := _MISSING.fullmatch(text)) is not None:
        inside = f" in {path}" if path else ""
        expected = _expected(model, missing[1]) if not path else None
        return f"{missing[1]} is missing{inside}{f': expected {expected}' if expected else ''}.", missing[1]
    if (unknown := _UNKNOWN.fullmatch(text)) is not None:
        return f"{unknown[1]} is no field of {path or 'this body'}.", unknown[1]
    field = None if (first := _FIRST.match(f".{path}")) is None else first[1]
    name = _named(path, in_key=in_key)
    is_whole_field = field is not None and not in_key and re.fullmatch(r"[A-Za-z_0-9]+(\[[0-9.]+\])?", path) is not None
    if is_whole_field and (values := _values(model, str(field))) is not None:
        return f"{field} must be {values}.", field
    told = _told(name, text)
    described = _description(model, str(field)) if is_whole_field else None
    return f"{told}{f': {described}' if described else ''}.", field


def unreadable(error: Exception) -> str:
    """Return what is wrong with a body that is no JSON, as a sentence."""
    if isinstance(error, RecursionError):
        return "The body is not valid JSON: it is nested too deeply."
    if isinstance(error, UnicodeDecodeError):
        return "The body is not valid JSON: it is not UTF-8."
    text = str(error)
    if (byte := _BYTE.search(text)) is not None:
        return f"The body is not valid JSON: check its byte {byte[1]}."
    if "truncated" in text:
        return "The body is not valid JSON: it ends too soon."
    return "The body is not valid JSON."


def _split(text: str) -> tuple[str, bool, str]:
    """Return what msgspec has found, whether of a name, and the path without its beginning."""
    found = _PLACE.fullmatch(text)
    assert found is not None  # noqa: S101  (it matches everything)
    return found[1], found[2] is not None, (found[3] or "").removeprefix(".")


def _named(path: str, *, in_key: bool) -> str:
    """Return what a path leads to: `tags[...]` is a value of `tags`."""
    if not path:
        return "The body"
    base = path.replace("[...]", "")
    if in_key:
        return f"A name in {base}"
    return f"A value of {base}" if path.endswith("[...]") else base


def _told(name: str, text: str) -> str:
    """Return what is wrong with what has this name."""
    if (kind := _KIND.fullmatch(text)) is None:
        # What is not msgspec's is that of a shape's own check, which is in words.
        return f"{name} is not valid" if text.startswith(_OF_MSGSPEC) else text.rstrip(".")
    names, bound, got = kind[1].split(" | "), _bound(kind[1], kind[2]), kind[3]
    if got is None and bound is not None:
        return f"{name} must {bound}"
    wanted = " or ".join(_KINDS.get(each, "one of the known values") for each in dict.fromkeys(names))
    if kind[2] == _BLANK:
        return f"{name} must not be blank"
    if got is None:
        return f"{name} is not of the right form" if kind[2] else f"{name} must be {wanted}"
    return f"{name} must be {wanted}, not {_KINDS.get(got, 'of that kind')}"


def _bound(kind: str, text: str) -> str | None:
    """Return a bound of a value in words; None where it has none that is counted."""
    found = _BOUND.fullmatch(text)
    if found is None:
        return None
    if found[1] is not None:
        parts = next((word for name, word in _PARTS.items() if name in kind.split(" | ")), "parts")
        return f"have {_COMPARED[found[1]]} {found[2]} {parts if found[2] != '1' else parts.removesuffix('s')}"
    if found[3] is not None:
        return f"be {_COMPARED[found[3]]} {found[4]}"
    return f"be a multiple of {found[5]}"


def _expected(model: Any, name: str) -> str | None:
    kinds = (_WORDS.get(str(each.get("type"))) for each in _options(model, name))
    return values_of(model, name) or next((each for each in kinds if each is not None), None)


def values_of(model: Any, name: str) -> str | None:
    """Return what a field's shape says of its values; None where it says nothing."""
    return _values(model, name) or _description(model, name)


def _values(model: Any, name: str) -> str | None:
    """Return the values that a field may have; None where they are not counted."""
    found = next((each["enum"] for each in _options(model, name) if "enum" in each), None)
    return None if found is None else f"one of {', '.join(map(str, found))}"


def _description(model: Any, name: str) -> str | None:
    return next((str(each["description"]) for each in _options(model, name) if "description" in each), None)


def _options(model: Any, name: str) -> tuple[dict[str, Any], ...]:
    """Return the schemas that a field's value, or each item of it, may have."""
    options = (field := _properties(model).get(name, {}), *field.get("anyOf", ()))
    return (*options, *(each["items"] for each in options if "items" in each))


@cache
def _properties(model: Any) -> dict[str, Any]:
    """Return the schemas of a shape's fields, once made: that takes milliseconds, and each refusal asks for them."""
    schema = msgspec.json.schema(model)
    shape = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], {})
    return dict(shape.get("properties", {}))
