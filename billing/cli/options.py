"""Options and arguments of several commands. This file owns their names and what they mean.

`Common` are those that every command takes, so that scripts can give them to any; the help of a command names those
that it uses.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.schemas.base import DEFAULT_TIMEOUT_S

_PANEL: Final = "Options of every command"
LEAST_TIMEOUT_S: Final = 0.1
MAX_TIMEOUT_S: Final = 86_400.0
_DURATION: Final = re.compile(
    r"(?=[\d.])(?:(?P<hours>\d{1,2})h)?(?:(?P<minutes>\d{1,4})m)?(?:(?P<seconds>\d{1,5}(?:\.\d{1,9})?|\.\d{1,9})s?)?",
    re.ASCII,
)
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


AccountId = Annotated[str, typer.Argument(help="The account's id, acc_...", show_default=False)]
Quotas = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="WINDOW:METRIC=LIMIT[@MODEL]",
        help="Such as day:tokens=100000, month:cost=12.50, minute:requests=60@gpt-4*; may be given several times.",
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def changes_of(**options: Any) -> dict[str, Any]:
    """Return the options of a change that were given. Raises `typer.BadParameter` for none."""
    changes = given(**options)
    if not changes:
        raise typer.BadParameter("nothing to change was given; see --help")
    return changes


Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most to show.")]
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
class Common:
    """What was given of the options of every command."""

    api_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A gateway's address; else METERGATE_API_URL, the data folder's `metergate up`, or the stores.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that holds the key or token for the gateway, instead of a variable or the sign-in.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            parser=parse_timeout_s,
            help="Longest time for one call: seconds, or such as 90s or 1m30s.",
            rich_help_panel=_PANEL,
        ),
    ] = DEFAULT_TIMEOUT_S
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the result to a file (mode 600 when it is new) instead of stdout.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No result and no progress: errors alone.", rich_help_panel=_PANEL)
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="The result as one line of JSON, for scripts.", rich_help_panel=_PANEL)
    ] = False
