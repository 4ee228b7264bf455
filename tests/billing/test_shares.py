"""Shares of a whole, exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import MILLION, parse_share


@given(st.integers(1, MILLION))
def test_every_millionth_is_read_exactly(millionths):
    text = "1" if millionths == MILLION else f"0.{millionths:06d}"
    assert Fraction(parse_share(text), MILLION) == Fraction(text)


@pytest.mark.parametrize(("text", "millionths"), [("0.25", 250_000), (".5", 500_000), ("1.0", MILLION), ("1", MILLION)])
def test_the_usual_spellings(text, millionths):
    assert parse_share(text) == millionths


@pytest.mark.parametrize("text", ["", "0", "0.0", "1.1", "2", "-0.5", "25%", "1/4", "0.0000001", "1e-1", "٠.٥"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  (its text is for people)
        parse_share(text)
