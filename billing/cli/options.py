"""Options and arguments of several commands. This file owns their names and what they mean.

`Common` are those that every command takes, so that scripts can give them to any; the help of a command names those
that it uses. A quota is `window:metric=limit`, with `@model` for some models alone:

    day:tokens=100000      month:cost=12.50      minute:requests=60@gpt-4*
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.quotas import Metric, QuotaError, parse_quota
from billing.schemas.base import DEFAULT_TIMEOUT_S, shown
from billing.schemas.quotas import QuotaShape
from billing.times import rfc3339

LEAST_TIMEOUT_S: Final = 0.1
MAX_TIMEOUT_S: Final = 86_400.0
_DURATION: Final = re.compile(
    r"(?=[\d.])(?:(?P<hours>\d{1,2})h)?(?:(?P<minutes>\d{1,4})m)?(?:(?P<seconds>\d{1,5}(?:\.\d{1,9})?|\.\d{1,9})s?)?",
    re.ASCII,
)
_AGO: Final = re.compile(r"(?P<number>\d{1,6})(?P<unit>[mhdw])", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_YEAR: Final = re.compile(r"\d{4}-", re.ASCII)
TIMES: Final = (
    "Such are 2027-01-31T12:00:00Z, the day 2027-01-31, 7d, 24h, 30m or 2w for so long ago, today, and yesterday."
)
_DAYS_AGO: Final = {"today": 0, "yesterday": 1}
_QUOTA: Final = re.compile(r"(?P<window>[^:=@]+):(?P<metric>[^:=@]+)=(?P<limit>[^@]+)(?:@(?P<model>.+))?")
EXPECTED: Final = "expected window:metric=limit, such as day:tokens=100000 or month:cost=12.50@gpt-4*"
# The fields of `Common` that a command uses which shows a result.
RESULT: Final = frozenset({"output", "quiet", "json"})
# And one that bounds its calls.
TIMED: Final = RESULT | {"timeout_s"}
# And one that calls a gateway.
REMOTE: Final = TIMED | {"api_url", "token_file"}


def parse_timeout_s(given: str | float) -> float:
    """Return the seconds of `30`, `0.5`, `90s` or `1m30s`. Raises `typer.BadParameter`."""
    match = _DURATION.fullmatch(str(given))
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not LEAST_TIMEOUT_S <= total_s <= MAX_TIMEOUT_S:
        raise typer.BadParameter(f"{given} is no time from {LEAST_TIMEOUT_S} s to 24h, such as 30, 90s or 1m30s.")
    return total_s


def parse_moment(text: str) -> str:
    """Return a time as the API takes it. `7d`, `24h`, `30m`, `2w` are so long ago; `today` and `yesterday` begin at
    midnight UTC; what begins with a year is left to the API. Raises `typer.BadParameter` for anything else, and for a
    time that is too long ago."""
    now = datetime.now(UTC)
    match = _AGO.fullmatch(text)
    if match is not None:
        try:
            return rfc3339(now - timedelta(**{_UNITS[match["unit"]]: int(match["number"])}))
        except OverflowError as error:
            raise typer.BadParameter(f"{text} ago is before the calendar begins.") from error
    if text in _DAYS_AGO:
        return (now.date() - timedelta(days=_DAYS_AGO[text])).isoformat()
    if _YEAR.match(text) is None:
        raise typer.BadParameter(f"{text!r} is no time. {TIMES}")
    return text


def parse_day(text: str) -> str:
    """Return a day as the API takes it: as `parse_moment` reads it, without its time. Raises `typer.BadParameter`."""
    return parse_moment(text).partition("T")[0] if _AGO.fullmatch(text) else parse_moment(text)


def moment(help_text: str) -> Any:
    """Return an option that is a time, or how long ago it was."""
    return typer.Option(metavar="TIME", parser=parse_moment, help=help_text)


def day(help_text: str) -> Any:
    """Return an option that is a day of UTC, or how long ago it was."""
    return typer.Option(metavar="DAY", parser=parse_day, help=help_text)


AccountId = Annotated[
    str,
    typer.Argument(metavar="ACCOUNT", help="The account: its id, its name, or how these begin.", show_default=False),
]


def parse_quota_text(text: str) -> QuotaShape:
    """Return a quota as the API takes it. Raises `QuotaError`."""
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise QuotaError(EXPECTED)
    fields: dict[str, object] = {name: value for name, value in match.groupdict().items() if value is not None}
    limit = match["limit"]
    if match["metric"] != Metric.cost.name and limit.isascii() and limit.isdigit():
        fields["limit"] = int(limit)
    shape: QuotaShape = shown(parse_quota(fields))
    return shape


def quotas_of(texts: Iterable[str]) -> list[QuotaShape]:
    """Return the quotas of an option given several times. Raises `typer.BadParameter`, which names the wrong one."""
    quotas = []
    for text in texts:
        try:
            quotas.append(parse_quota_text(text))
        except QuotaError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint="--quota") from error
    return quotas


def quota_text(quota: QuotaShape) -> str:
    """Return the text of a quota, as `parse_quota_text` reads it; a feature, which it has no text for, stands in
    brackets."""
    model = f"@{quota.model}" if quota.model else ""
    feature = f" [{quota.feature}]" if quota.feature else ""
    return f"{quota.window}:{quota.metric}={quota.limit}{model}{feature}"


def quotas_text(quotas: Iterable[QuotaShape]) -> str:
    """Return the texts of several in one cell."""
    return ", ".join(map(quota_text, quotas)) or "none"


def new_key() -> str:
    """Return an idempotency key of our own."""
    from ulid import ULID

    return str(ULID())


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def some_change(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a change. Raises `typer.BadParameter` for none."""
    if not changes:
        raise typer.BadParameter("nothing to change was given; see --help")
    return changes


Limit = Annotated[int, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Most to show.")]
Cursor = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Where the page before ended, as it was printed there.")
]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is shown."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = None

    @property
    def asked(self) -> dict[str, Any]:
        """Return what an operation is asked for."""
        return {"limit": self.limit, "cursor": self.cursor}


FIRST_PAGE: Final = Paging()


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests are listed."""

    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Of one model, as it was asked for.")] = None
    status: Annotated[int | None, typer.Option(metavar="STATUS", help="Answered with this HTTP status.")] = None
    since: Annotated[str | None, moment("From then on: a time, a day, or 7d, 24h, today, yesterday.")] = None
    until: Annotated[str | None, moment("Before then.")] = None


# Every request.
ANY_REQUEST: Final = RequestFilter()


@dataclass(frozen=True, slots=True)
class Common:
    """What was given of the options of every command."""

    api_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A gateway's address; else METERGATE_API_URL, the data folder's `metergate up`, or the stores.",
            hidden=True,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that holds the key or token for the gateway, instead of a variable or the sign-in.",
            hidden=True,
        ),
    ] = None
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            parser=parse_timeout_s,
            help="Longest time for one call: seconds, or such as 90s or 1m30s.",
            hidden=True,
        ),
    ] = DEFAULT_TIMEOUT_S
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the result to a file (mode 600 when it is new) instead of stdout.",
            hidden=True,
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No result and no progress: only errors.", hidden=True)] = False
    json: Annotated[bool, typer.Option("--json", help="The result as one line of JSON, for scripts.", hidden=True)] = (
        False
    )
