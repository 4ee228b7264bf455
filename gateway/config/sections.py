"""Sections of the files as structs: a struct's fields are the keys of its section, and their types what each may be.

Bounds stand in `msgspec.Meta`. A type that they can't express has a reader of its own, `Annotated[int, read_by(usd)]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, structs

if TYPE_CHECKING:
    from gateway.config.source import Value

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
