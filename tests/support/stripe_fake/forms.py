"""Requests of Stripe's API: form bodies read as nested values, and checked against the SDK's generated TypedDicts.

The shapes in `stripe.params` are made from Stripe's own specification, so that what this accepts is not only what we
believe. Their enumerations are open (`Literal[...] | str`), names and nesting are not.
"""

import re
import sys
from functools import cache
from types import UnionType
from typing import Annotated, Any, ForwardRef, Literal, NotRequired, Required, Union, get_args, get_origin

from stripe._request_options import RequestOptions
from typing_extensions import is_typeddict  # the library makes its TypedDicts by these

_PART = re.compile(r"\[([^\[\]]*)\]")
_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class BadParams(Exception):
    """A parameter is unknown, misplaced or of another type."""

    def __init__(self, param: str, what: str) -> None:
        super().__init__(f"{what}: {param}")
        self.param = param


def read_form(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return `a[b][0]=c` as {"a": {"b": ["c"]}}. Raises `BadParams` for a name that is given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        head, brackets, _ = name.partition("[")
        place, keys = found, [head, *(_PART.findall(name) if brackets else ())]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        if keys[-1] in place:
            raise BadParams(name, "given twice")
        place[keys[-1]] = value
    return {name: _lists(value) for name, value in found.items()}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(each) for name, each in value.items()}
    if inner and all(name.isdigit() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


@cache
def _fields(shape: type) -> dict[str, Any]:
    """Return the names of a TypedDict and what they take, without those of the request's options."""
    own = {name: each for name, each in shape.__annotations__.items() if name not in RequestOptions.__annotations__}
    own |= {"expand": list[str]} if "expand" in shape.__annotations__ else {}
    return {name: _resolved(each, vars(sys.modules[shape.__module__])) for name, each in own.items()}


def _resolved(kind: Any, names: dict[str, Any]) -> Any:
    """Return a type whose forward references are read in a module's names."""
    if isinstance(kind, ForwardRef):
        kind = kind.__forward_arg__
    if isinstance(kind, str):
        return _resolved(eval(kind, names), names)  # noqa: S307 - the annotations of a library that the tests run
    if get_origin(kind) in (NotRequired, Required, Annotated):
        return _resolved(get_args(kind)[0], names)
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(_resolved(each, names) for each in get_args(kind))]  # noqa: UP007 - made at run time
    if get_origin(kind) in (list, dict):
        return get_origin(kind)[tuple(_resolved(each, names) for each in get_args(kind))]
    return kind


def check(value: Any, shape: type) -> dict[str, Any]:
    """Return a request's values, typed as its shape says. Raises `BadParams`."""
    checked = _checked(value, shape, "")
    missing = [name for name, each in shape.__annotations__.items() if _is_required(each) and name not in value]
    if missing:
        raise BadParams(missing[0], "Missing required param")
    return checked  # type: ignore[no-any-return]


def _is_required(kind: Any) -> bool:
    text = kind.__forward_arg__ if isinstance(kind, ForwardRef) else str(kind)
    return not text.startswith(("NotRequired", "typing_extensions.NotRequired", "typing.NotRequired"))


def _checked(value: Any, kind: Any, path: str) -> Any:
    if is_typeddict(kind):
        return _checked_fields(value, kind, path)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _any_of(value, get_args(kind), path)
    if origin is list:
        if not isinstance(value, list):
            raise BadParams(path, "Invalid array")
        return [_checked(each, get_args(kind)[0], f"{path}[{index}]") for index, each in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise BadParams(path, "Invalid hash")
        return {name: _checked(each, get_args(kind)[1], f"{path}[{name}]") for name, each in value.items()}
    return _leaf(value, kind, path)


def _checked_fields(value: Any, kind: type, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadParams(path, "Invalid object")
    fields = _fields(kind)
    unknown = [name for name in value if name not in fields]
    if unknown:
        name = f"{path}[{unknown[0]}]" if path else unknown[0]
        raise BadParams(name, "Received unknown parameter")
    return {name: _checked(each, fields[name], f"{path}[{name}]" if path else name) for name, each in value.items()}


def _any_of(value: Any, kinds: tuple[Any, ...], path: str) -> Any:
    failed: BadParams | None = None
    for kind in sorted(kinds, key=lambda each: each is str):  # a number stays one where both are taken
        try:
            return _checked(value, kind, path)
        except BadParams as error:
            deeper = failed is None or len(error.param) > len(failed.param)
            failed = error if deeper else failed
    raise failed or BadParams(path, "Invalid value")


def _leaf(value: Any, kind: Any, path: str) -> Any:
    if get_origin(kind) is Literal:
        texts = {str(each): each for each in get_args(kind)}
        if not isinstance(value, str) or value not in texts:
            raise BadParams(path, "Invalid value")
        return texts[value]
    if not isinstance(value, str):
        raise BadParams(path, "Invalid string")
    if kind is bool:
        if value not in ("true", "false"):
            raise BadParams(path, "Invalid boolean")
        return value == "true"
    if kind is int:
        if _WHOLE.fullmatch(value) is None:
            raise BadParams(path, "Invalid integer")
        return int(value)
    if kind is float and _DECIMAL.fullmatch(value) is None:
        raise BadParams(path, "Invalid number")
    return value
