"""Gemini's format, the objects of a request: names that have two spellings each.

Google's servers take a field by its JSON name and by its name in the definition (`maxOutputTokens` and
`max_output_tokens`, https://protobuf.dev/programming-guides/json/), and by no other spelling. Both are read here as the
first; a name in a third spelling, or in both at once, is refused. A list of one item may be written without its
brackets, as Google's own examples have it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.dialects.fields import check_names, first_byte, is_null, read_object, read_objects, wrong_type
from gateway.dialects.structure import more_items, too_many
from gateway.dialects.values import text, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from msgspec import Raw

_UPPER: Final = re.compile(r"([A-Z])")
_OBJECT, _LIST, _QUOTE = b'{["'
GENERATE: Final = "generateContent"
STREAM: Final = "streamGenerateContent"
EMBED: Final = "embedContent"
EMBED_BATCH: Final = "batchEmbedContents"
COUNT: Final = "countTokens"


class Names:
    """The names of one kind of object that metering reads."""

    __slots__ = ("_plain", "spelled")

    def __init__(self, *names: str) -> None:
        self._plain: dict[str, str] = {}
        for name in names:
            self._plain[name] = self._plain[snake(name)] = name
        self.spelled = frozenset(self._plain)

    def plain(self, fields: Mapping[str, Raw]) -> dict[str, Raw]:
        """Return the fields by their JSON names; null is as if it were not given."""
        of = self._plain
        return {of.get(name, name): value for name, value in fields.items() if not is_null(value)}

    def read(self, raw: Raw, param: str) -> dict[str, Raw]:
        """Return the fields of an object. Raises `BadRequest`."""
        return self.plain(read_object(raw, param, self.spelled))

    def read_each(self, raw: Raw, param: str, most: int) -> list[dict[str, Raw]]:
        """Return the fields of each object of a list of at most `most`. Raises `BadRequest`."""
        if first_byte(raw) == _OBJECT:
            return [self.read(raw, param)]
        if first_byte(raw) != _LIST:
            raise wrong_type(param, "an array of objects")
        if more_items(raw, most):
            raise too_many(f"items in '{param}'", most, param)
        found = read_objects(raw, param, self.spelled)
        if found is None:
            raise wrong_type(param, "an array of objects")
        return [self.plain(each) for each in found]

    def check(self, names: Iterable[str], param: str) -> None:
        """Refuse names that are spelled in another way, or in two. Raises `BadRequest`."""
        check_names(names, param, self.spelled)

    def spelling(self, fields: Mapping[str, object], name: str) -> str:
        """Return how an object spells a field: by its JSON name where it has neither."""
        return snake(name) if snake(name) in fields else name


def snake(name: str) -> str:
    """Return a field's name in the definition, by its JSON name."""
    return _UPPER.sub(r"_\1", name).lower()


def method_of(operation: str) -> str:
    """Return what is done, without the version of the API."""
    return operation.partition(":")[2]


def texts_or_one(raw: Raw, param: str) -> list[str]:
    """Return a list of strings, or of the one that stands there without brackets. Raises `BadRequest`."""
    return [text(raw, param)] if first_byte(raw) == _QUOTE else texts(raw, param)
