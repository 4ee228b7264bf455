"""The options of every command: times as people write them."""

import pytest
import typer

from billing.cli.options import parse_timeout_s


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (30.0, 30.0),
        ("30", 30.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("0.1s", 0.1),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1m30s", 90.0),
        ("1m30", 90.0),
        ("1h0.5s", 3600.5),
        ("24h", 86_400.0),
        ("86400", 86_400.0),
    ],
)
def test_seconds_and_durations(given, seconds):
    assert parse_timeout_s(given) == seconds


@pytest.mark.parametrize("given", ["", "s", "0", "0.09", "-1", "1e3", "nan", "inf", "10 s", "1s1m", "24h1s", "x", "٥"])
def test_what_is_no_time_within_the_bounds(given):
    with pytest.raises(typer.BadParameter, match="such as 30, 90s or 1m30s"):
        parse_timeout_s(given)
