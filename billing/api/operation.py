"""Operation: one endpoint of the API, declared once. Pure, and light to import.

From a declaration follow what the server checks (`billing.api.route`), the endpoint's part of `/api/openapi.json`, the
permission matrix, and a method of the client library: a client class has operations as attributes, and one of them,
read from a client, is its call. The call takes the ids of the path by position, and the fields of the query and the
body by name:

    class KeyOperations:
        update_key = operation("PATCH", KEY, KeyShape, KeyPatch, who=Access.admin)

    await client.update_key("key_1", name="CI")     # KeyOperations.update_key itself is the declaration

mypy knows all of that from the declaration: how many ids a path has is the type of the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, overload
from urllib.parse import quote

from billing.schemas.base import Body, ErrorEnvelope, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

P = ParamSpec("P")
A = TypeVar("A")

JSON: Final = "application/json"
_IN_PATH: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")


class Access(Enum):
    """Who may call: anyone; whoever has an API key; a key or a person's token; a person; a service; or the operator,
    who has the admin key or is a person with that right."""

    anyone = "anyone"
    key = "API key"
    caller = "API key or token"
    person = "token"
    service = "service key"
    admin = "admin key"


class OfOne(str):
    """A path with one id in it."""

    __slots__ = ()

    def __truediv__(self, below: str) -> OfOne:
        return OfOne(f"{self}/{below}")


class OfTwo(str):
    """A path with two ids in it."""

    __slots__ = ()

    def __truediv__(self, below: str) -> OfTwo:
        return OfTwo(f"{self}/{below}")


class Carrier(Protocol):
    """What carries calls."""

    async def call(self, operation: Operation[..., A], *ids: str, **fields: Any) -> A:
        """Carry a call of an operation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation(Generic[P, A]):
    """An endpoint: `path` is the whole path, `query` and `body` the schemas of what is asked, `answer` that of a
    success with `status` (None: no body).

    `who` may call is the operator where nothing is said, or with `scope`, which a caller then needs, a key or a token;
    with `whole` a person's token must not have been narrowed. `errors` are statuses beside those that follow from the
    rest, `refusal` is their schema; `accepts` are media types of a body, each with its schema. With `optional` the body
    may be left out. With `or_bearer` the admin key may come as a bearer, too; `hint` is added to the refusal of a
    request without it.

    `name` is unique and the handler's where none is given, `summary` its docstring likewise. Of two operations that one
    handler serves, one says whose data it is about (`of`): that is added to the name, and `also` to the summary.
    """

    method: str
    path: str
    answer: Any
    who: Access
    query: type[Query] | None = None
    body: Any = None
    scope: str | None = None
    whole: bool = False
    status: int = 200
    errors: tuple[int, ...] = ()
    optional: bool = False
    media: str = JSON
    accepts: tuple[tuple[str, Any], ...] = ()
    refusal: Any = ErrorEnvelope
    or_bearer: bool = False
    csv: bool = False
    hint: str = ""
    name: str = ""
    summary: str = ""
    of: str = ""
    also: str = ""

    @property
    def ids(self) -> list[str]:
        """Return what the ids in the path are called."""
        return _IN_PATH.findall(self.path)

    @property
    def plain_path(self) -> str:
        """Return the path without the patterns of its ids."""
        return _IN_PATH.sub(r"{\1}", self.path)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Carrier, owner: type) -> Callable[P, Coroutine[Any, Any, A]]: ...
    def __get__(self, client: Carrier | None, owner: type) -> Any:
        """Return the call of this operation by a client; the operation itself where it is read from a class."""
        return self if client is None else partial(client.call, self)

    def path_of(self, *ids: str) -> str:
        """Return the path with these ids in it, whatever they hold. Raises `TypeError` for too many or too few."""
        if len(ids) != len(self.ids):
            raise TypeError(f"{self.method} {self.path} takes {len(self.ids)} ids, not {len(ids)}")
        left = iter(ids)
        return _IN_PATH.sub(lambda _: path_part(next(left)), self.path)

    def asked(self, fields: Mapping[str, Any]) -> tuple[dict[str, str], Query | Body | None]:
        """Return the query string and the body of a call with these fields. Raises `TypeError` for a field that is
        none, and for one that is missing."""
        query, rest = {}, dict(fields)
        if self.query is not None:
            given = {name: rest.pop(name) for name in self.query.__struct_fields__ if name in rest}
            self.query(**given)
            query = {name: str(value) for name, value in given.items() if value is not None}
        if self.body is not None:
            return query, self.body(**rest)
        if rest:
            raise TypeError(f"{self.method} {self.path} takes no {', '.join(rest)}")
        return query, None


def path_part(segment: str) -> str:
    """Return a text as one segment of a path, whatever it holds."""
    return quote(segment, safe="") or "-"


@overload
def operation(
    method: str, path: OfOne, answer: type[A], asks: Callable[P, Query | Body], **more: Any
) -> Operation[Concatenate[str, P], A]: ...
@overload
def operation(
    method: str, path: OfTwo, answer: type[A], asks: Callable[P, Query | Body], **more: Any
) -> Operation[Concatenate[str, str, P], A]: ...
@overload
def operation(method: str, path: OfOne, answer: type[A], **more: Any) -> Operation[[str], A]: ...
@overload
def operation(method: str, path: OfTwo, answer: type[A], **more: Any) -> Operation[[str, str], A]: ...
@overload
def operation(
    method: str, path: str, answer: type[A], asks: Callable[P, Query | Body], **more: Any
) -> Operation[P, A]: ...
@overload
def operation(method: str, path: str, answer: type[A], **more: Any) -> Operation[[], A]: ...
def operation(method: str, path: str, answer: Any, asks: Any = None, **more: Any) -> Any:
    """Return an operation that asks for a query string or a body. Its type says what a call of it takes."""
    is_query = isinstance(asks, type) and issubclass(asks, Query)
    asked = {} if asks is None else {"query" if is_query else "body": asks}
    is_empty = answer is NoneType
    usual = {"who": Access.caller if "scope" in more else Access.admin, "status": 204 if is_empty else 200}
    return Operation(method=method, path=path, answer=None if is_empty else answer, **{**usual, **asked, **more})
