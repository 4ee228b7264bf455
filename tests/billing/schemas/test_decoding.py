"""Whole numbers in a caller's JSON, however they are written."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.schemas.decoding import decode_shape


class Shape(msgspec.Struct):
    """A count, and money."""

    count: int = 0
    amount_usd: str = "0"
    more: dict[str, Any] = {}


@pytest.mark.parametrize("text", ["95", "95.0", "9.5e1", "0.95E+2", "950e-1"])
def test_every_way_to_write_a_whole_number_is_one(text):
    assert decode_shape(f'{{"count": {text}}}'.encode(), Shape).count == 95


@pytest.mark.parametrize("text", ["95.5", "1e400", "1e300", "true", '"95"', "null", "NaN"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(msgspec.DecodeError):
        decode_shape(f'{{"count": {text}}}'.encode(), Shape)


@pytest.mark.parametrize("text", ["5", "5.0", "5e0"])
def test_money_is_never_a_number(text):
    with pytest.raises(msgspec.ValidationError):
        decode_shape(f'{{"count": 1.0, "amount_usd": {text}}}'.encode(), Shape)


@given(st.integers(-(2**53), 2**53), st.dictionaries(st.text(), st.text()))
def test_a_number_keeps_its_value(count, more):
    body = json.dumps({"count": float(count), "more": more}).encode()
    assert decode_shape(body, Shape) == Shape(count, more=more)
