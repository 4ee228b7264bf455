"""Patterns of fields: each holds to the last character, where Python's `$` would let a newline follow."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import billing.schemas
from billing.schemas.base import Body, Query
from billing.schemas.credit import NewCouponBody
from billing.schemas.payments import NewFeatureUse
from billing.schemas.service import NewDebit

# Patterns that stand anywhere in a text.
FREE = {r"\S"}


def patterns(hint: Any) -> Iterator[str]:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern is not None:
            yield meta.pattern
    for each in get_args(hint):
        yield from patterns(each)


def test_every_pattern_of_a_body_or_query_ends_with_the_text():
    found = set()
    for module in pkgutil.iter_modules(billing.schemas.__path__, "billing.schemas."):
        for shape in vars(importlib.import_module(module.name)).values():
            if isinstance(shape, type) and issubclass(shape, Body | Query):
                hints = get_type_hints(shape, include_extras=True)
                found |= {pattern for hint in hints.values() for pattern in patterns(hint)}
    assert len(found - FREE) > 5
    assert [each for each in found - FREE if not (each.startswith("^") and each.endswith(r"\Z"))] == []


@pytest.mark.parametrize(
    ("shape", "field", "value"),
    [
        (NewDebit, "event_id", "e-1"),
        (NewDebit, "meter", "container.second"),
        (NewFeatureUse, "event_id", "e-1"),
        (NewFeatureUse, "feature", "reports"),
        (NewCouponBody, "code", "SPRING27"),
    ],
)
def test_a_newline_at_the_end_is_refused(shape, field, value):
    whole = {"account_id": "a", "event_id": "e", "feature": "f", "name": "n", "amount_usd": "1"}
    given = {name: each for name, each in whole.items() if name in shape.__struct_fields__} | {field: value}
    msgspec.convert(given, shape)
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(given | {field: f"{value}\n"}, shape)
