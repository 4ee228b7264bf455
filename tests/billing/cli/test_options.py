"""The options of several commands: times as people write them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from billing.cli.commands import add_command, group
from billing.cli.options import day, moment, parse_day, parse_moment, parse_timeout_s
from billing.times import parse_rfc3339


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


@pytest.mark.parametrize(
    ("given", "ago"),
    [("30m", timedelta(minutes=30)), ("24h", timedelta(hours=24)), ("7d", timedelta(days=7)), ("2w", timedelta(14))],
)
def test_how_long_ago(given, ago):
    before = datetime.now(UTC) - ago
    moment = parse_rfc3339(parse_moment(given))
    assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC) - ago
    assert parse_day(given) in {(before).date().isoformat(), moment.date().isoformat()}


@pytest.mark.parametrize("option", [moment, day])
def test_an_option_of_a_command_takes_how_long_ago(option):
    given = []

    def work(output, since: Annotated[str | None, option("From then on.")] = None) -> int:
        given.append(since)
        return 0

    app = group("Tried.")
    app.callback()(lambda: None)
    add_command(app, "show", work)
    for words in (["--since", "yesterday"], ["--since", "2027-01-31"], []):
        assert CliRunner().invoke(app, ["show", *words]).exit_code == 0
    assert given == [parse_moment("yesterday"), "2027-01-31", None]


def test_days_by_name_begin_at_midnight_utc():
    before = datetime.now(UTC).date()
    shown = parse_moment("today"), parse_moment("yesterday"), parse_day("yesterday")
    days = {before, datetime.now(UTC).date()}
    assert shown in {tuple((each - timedelta(days=days_ago)).isoformat() for days_ago in (0, 1, 1)) for each in days}


@pytest.mark.parametrize("given", ["2027-01-31", "2027-01-31T12:00:00Z", "2027-13-31"])
def test_what_begins_with_a_year_is_left_to_the_api(given):
    assert parse_moment(given) == parse_day(given) == given


@pytest.mark.parametrize("given", ["7", "d7", "7 d", "-7d", "tomorrow", "", "٧d"])
@pytest.mark.parametrize("read", [parse_moment, parse_day])
def test_what_is_no_time_reads_which_times_there_are(given, read):
    with pytest.raises(typer.BadParameter, match=r"is no time\. Such are 2027-01-31T12:00:00Z"):
        read(given)


def test_no_time_is_before_the_calendar():
    with pytest.raises(typer.BadParameter, match="before the calendar begins"):
        parse_moment("999999w")
