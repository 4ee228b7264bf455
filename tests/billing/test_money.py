"""Money at the edges: decimal strings in and out, exact, bounded, and never a float."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import (
    MAX_NANO,
    NANO_PER_USD,
    MoneyError,
    ceil_div,
    check_bound,
    format_credits,
    format_usd,
    parse_positive_usd,
    parse_usd,
)

amounts_nano = st.integers(-MAX_NANO, MAX_NANO)


@given(amounts_nano)
def test_what_is_written_is_read_back(nano):
    assert parse_usd(format_usd(nano)) == nano


@given(amounts_nano)
def test_the_text_is_the_exact_amount_without_an_exponent(nano):
    text = format_usd(nano)
    assert Fraction(text) == Fraction(nano, NANO_PER_USD)
    assert "e" not in text.lower()
    assert len(text.partition(".")[2]) >= 2


@given(st.integers(0, 9_007_199), st.integers(0, 9), st.data())
def test_any_plain_decimal_is_exact(whole, decimals, data):
    fraction = data.draw(st.text("0123456789", min_size=decimals, max_size=decimals))
    text = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Fraction(text) * NANO_PER_USD
    if exact > MAX_NANO:
        with pytest.raises(MoneyError):
            parse_usd(text)
    else:
        assert parse_usd(text) == exact


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("12.50", 12_500_000_000),
        ("0.000000001", 1),
        ("-0.01", -10_000_000),
        ("0", 0),
        ("-0", 0),
        ("007", 7_000_000_000),
    ],
)
def test_readings(text, nano):
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        0.15,
        1,
        True,
        None,
        b"1",
        "",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "--1",
        ".5",
        "5.",
        "1e3",
        "1E-3",
        "0.1234567890",
        "1,000",
        "1_000",
        "NaN",
        "Infinity",
        "0x1",
        "١",
        "12345678901",
    ],
)
def test_refused(text):
    with pytest.raises(MoneyError):
        parse_usd(text)


def test_the_bound_is_two_to_the_53rd_minus_one():
    assert parse_usd("9007199.254740991") == MAX_NANO
    assert parse_usd("-9007199.254740991") == -MAX_NANO
    for beyond in ("9007199.254740992", "-9007199.254740992", "9999999999"):
        with pytest.raises(MoneyError, match=r"bounded by 9007199\.254740991 USD"):
            parse_usd(beyond)


@given(st.integers())
def test_check_bound_passes_what_is_within(nano):
    if abs(nano) <= MAX_NANO:
        assert check_bound(nano) == nano
    else:
        with pytest.raises(MoneyError):
            check_bound(nano)


@given(amounts_nano)
def test_positive_amounts(nano):
    if nano > 0:
        assert parse_positive_usd(format_usd(nano)) == nano
    else:
        with pytest.raises(MoneyError):
            parse_positive_usd(format_usd(nano))


@given(amounts_nano, st.integers(1, 10**9))
def test_credits_are_the_exact_product(nano, credits_per_usd):
    text = format_credits(nano, credits_per_usd)
    assert Fraction(text) == Fraction(nano, NANO_PER_USD) * credits_per_usd
    assert not text.endswith(".")


def test_credits_of_the_default_rate():
    assert format_credits(12_500_000_000, 1000) == "12500"
    assert format_credits(-1, 1000) == "-0.000001"


@given(st.integers(), st.integers(1, 10**30))
def test_ceil_div_rounds_up(numerator, denominator):
    exact = Fraction(numerator, denominator)
    assert exact <= ceil_div(numerator, denominator) < exact + 1
