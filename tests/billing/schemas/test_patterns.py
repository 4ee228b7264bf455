"""Texts that have to match a pattern match it to their last character: Python's `$` lets a newline follow."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from billing.api.application import ROUTES
from billing.api.openapi import document
from billing.api.operations import OPERATIONS
from billing.schemas.credit import NewCouponBody
from billing.schemas.service import CloudEvent, NewUsage
from billing.schemas.subscriptions import FeatureName
from billing.schemas.tokens import TokenId


def texts(found: Any, seen: set[Any]) -> Iterator[inspect.StrType]:
    """The texts that a type is made of."""
    if isinstance(found, inspect.StrType):
        yield found
    if isinstance(found, inspect.StructType):
        if found.cls in seen:
            return
        seen.add(found.cls)
        parts = [field.type for field in found.fields]
    else:
        parts = [getattr(found, name, None) for name in ("item_type", "key_type", "value_type", "type")]
        parts += list(getattr(found, "types", ()))
    for part in parts:
        if isinstance(part, inspect.Type):
            yield from texts(part, seen)


def asked() -> Iterator[inspect.StrType]:
    for each in OPERATIONS:
        models = [each.body, each.query, *(model for _, model in each.accepts)]
        for model in models:
            if model is not None:
                yield from texts(inspect.type_info(model), set())


def test_no_pattern_lets_a_newline_follow() -> None:
    patterns = {text.pattern for text in asked() if text.pattern is not None}
    assert len(patterns) > 5
    assert [pattern for pattern in patterns if pattern.endswith("$")] == []


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (NewUsage, {"account_id": "a", "event_id": "e\n"}),
        (NewUsage, {"account_id": "a", "event_id": "e", "meter": "m\n"}),
        (NewCouponBody, {"name": "Spring", "amount_usd": "1", "code": "SPRING27\n"}),
        (CloudEvent, {"specversion": "1.0", "id": "1\n", "source": "s", "type": "t", "subject": "a"}),
        (CloudEvent, {"specversion": "1.0", "id": "1", "source": "s\n", "type": "t", "subject": "a"}),
        (dict[str, FeatureName], {"feature": "reports\n"}),
        (dict[str, TokenId], {"id": "t\n"}),
    ],
)
def test_a_newline_at_the_end_is_refused(model: Any, fields: dict[str, str]) -> None:
    body = msgspec.json.encode(fields)
    with pytest.raises(msgspec.ValidationError, match="regex"):
        msgspec.json.decode(body, type=model)
    assert msgspec.json.decode(body.replace(b"\\n", b""), type=model)


def test_openapi_has_patterns_of_javascript() -> None:
    """Where `$` is the end, and nothing knows `\\Z`."""
    shown = document(ROUTES)
    assert b'"pattern":"^[!-~]+$"' in shown
    assert rb"\\Z" not in shown
