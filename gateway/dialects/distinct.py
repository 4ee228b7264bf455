"""Names of fields that keep what stands twice in a JSON object."""

from __future__ import annotations


class Name(str):
    """A field's name that equals no other `Name`, so that a dictionary keeps what stands twice in a JSON object."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def as_name(_type: type, name: str) -> Name:
    """Return a name as a `Name`: `dec_hook` of a decoder of dictionaries with `Name` keys."""
    return Name(name)
