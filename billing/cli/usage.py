"""`metergate usage`: what was used, as a table or as CSV."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from billing.cli.commands import add_command
from billing.cli.options import FIRST_PAGE, REMOTE, Paging, given
from billing.cli.output import CommandFailed, Output, Shown, Table, details, listed, page_parts
from billing.cli.people import explained_to_people
from billing.cli.session import FILE_MODE, FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.usage import UsedShape

KINDS: Final = ("summary", "buckets", "events", "totals")
_PATHS: Final = {name: f"/api/account/usage/{name}" for name in ("summary", "buckets", "events")}
# Which of them takes which option.
_TAKES: Final = {
    "since": KINDS,
    "until": KINDS,
    "tz": ("summary", "buckets"),
    "group_by": ("summary", "buckets"),
    "granularity": ("buckets",),
    "key_id": ("events", "totals"),
    "user_id": ("events", "totals"),
    "model": ("events",),
    "cursor": ("summary", "buckets", "events"),
}
_EVERY_S: Final = 1.0
_USED: Final = ("requests", "input", "output", "total tokens", "charge USD")

Query = dict[str, str | None]
_FIELDS: Final = {"key": "key_id", "user": "user_id"}


@dataclass(frozen=True, slots=True)
class About:
    """What of it is shown."""

    since: Annotated[str | None, typer.Option(metavar="TIME", help="From this time or day on.")] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time or day.")] = None
    tz: Annotated[str | None, typer.Option(metavar="ZONE", help="Where days begin, such as Europe/Helsinki.")] = None
    group_by: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Up to two of model, key, user, provider, endpoint, feature, tag:NAME."),
    ] = None
    granularity: Annotated[
        str | None, typer.Option(metavar="STEP", help="Of buckets: minute, hour, day, week, month.")
    ] = None
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of one key.")] = None
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="Of one user's keys.")] = None
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Events of one model.")] = None

    @property
    def query(self) -> Query:
        """Return what an operation is asked for."""
        return {_FIELDS.get(name, name): value for name, value in asdict(self).items()}


ALL: Final = About()


def add_usage(app: typer.Typer, find: FindSession) -> None:
    """Add `usage`."""

    async def work(
        output: Output,
        what: Annotated[str, typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="What to show.")] = "summary",
        about: About = ALL,
        csv: Annotated[
            str | None, typer.Option(metavar="FILE", help="All of it as CSV, to a file, or - for stdout.")
        ] = None,
        page: Paging = FIRST_PAGE,
    ) -> None:
        """Show what was used: a summary, buckets of time, single requests, totals."""
        query = {**about.query, "cursor": page.cursor}
        _check(what, query, csv)
        session = find(output)
        with explained_to_people(session):
            client = await session.open_signed_in()
            if csv is None:
                shown = await _show(client, what, query, page.limit)
            else:
                shown = await _table(client, _PATHS[what], query, csv, output)
        output.show(shown)

    add_command(app, "usage", work, REMOTE)


def _check(what: str, query: Query, csv: str | None) -> None:
    if what not in KINDS:
        raise typer.BadParameter(f"{what!r}: expected one of {', '.join(KINDS)}")
    for name, value in query.items():
        if value is not None and what not in _TAKES[name]:
            option = name.removesuffix("_id").replace("_", "-")
            raise typer.BadParameter(f"goes with {' and '.join(_TAKES[name])}", param_hint=f"--{option}")
    if csv is not None and what not in _PATHS:
        raise typer.BadParameter(f"goes with {', '.join(_PATHS)}", param_hint="--csv")


async def _show(client: "BillingCalls", what: str, asked: Query, limit: int) -> Shown:
    query = given(**asked)
    if what == "totals":
        query.pop("cursor", None)
        totals = await client.usage(**query)
        shown = {name: value for name, value in totals.received.items() if name != "cost_usd"}  # `charge_usd` again
        rows = [(name.replace("_", " "), str(value)) for name, value in shown.items()]
        return details(totals, rows)
    query["limit"] = limit
    if what == "summary":
        return await _summary(client, query)
    if what == "buckets":
        return await _buckets(client, query)
    return listed(
        await client.usage_events(**query),
        ("time", "created_at"),
        ("request", "id"),
        "key_id",
        "model",
        "status",
        ("input", "input_tokens"),
        ("output", "output_tokens"),
        "charge_usd",
    )


async def _summary(client: "BillingCalls", query: dict[str, Any]) -> Shown:
    summary = await client.usage_summary(**query)
    names = tuple(summary.group_by)
    rows = [(*(each.group.get(name) or "-" for name in names), *_used(each)) for each in summary.data]
    rows.append((*("total" if index == 0 else "" for index in range(len(names))), *_used(summary.total)))
    table = Table((*names, *_USED), rows)
    since, until = summary.since or "the beginning", summary.until or "now"
    more = (f"There are more: --cursor {summary.next_cursor}",) if summary.next_cursor else ()
    return Shown(summary.received, (f"From {since} until {until} ({summary.tz}):", table, *more))


async def _buckets(client: "BillingCalls", query: dict[str, Any]) -> Shown:
    buckets = await client.usage_buckets(**query)
    names = tuple(buckets.group_by)
    rows: list[tuple[str, ...]] = []
    for each in buckets.data:
        rows.append((each.local_start, *("" for _ in names), *_used(each)))
        rows += [("", *(group.group.get(name) or "-" for name in names), *_used(group)) for group in each.groups]
    return Shown(buckets.received, page_parts(("from", *names, *_USED), rows, buckets.next_cursor))


def _used(used: "UsedShape") -> tuple[str, ...]:
    numbers = (used.events, used.input_tokens, used.output_tokens, used.total_tokens)
    return (*map(str, numbers), used.charge_usd)


async def _table(client: "BillingCalls", path: str, query: Query, csv: str, output: Output) -> Shown:
    """Write a table part by part; a file is there once it is whole."""
    from billing.cli.client import CommandClient

    assert isinstance(client, CommandClient)  # noqa: S101 - commands have no other
    received, shown_s = 0, time.monotonic()

    def counted(write: Callable[[bytes], object]) -> Callable[[bytes], None]:
        def take(part: bytes) -> None:
            nonlocal received, shown_s
            try:
                write(part)
            except OSError as error:
                raise CommandFailed(f"Cannot write the table: {error.strerror}.") from error
            received += len(part)
            if time.monotonic() - shown_s > _EVERY_S:
                shown_s = time.monotonic()
                output.note(f"{received / 1e6:.1f} MB so far")

        return take

    if csv == "-":
        output.flush()
        await client.download(path, query, "text/csv", counted(output.write_bytes))
        return Shown({"file": None, "bytes": received}, (), silent=True)
    with _whole_file(Path(csv)) as file:
        await client.download(path, query, "text/csv", counted(file.write))
    return Shown({"file": csv, "bytes": received}, (f"{csv} has {received} bytes.",))


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, mode 600, which takes the place of `path` at the end, and is removed where something fails."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error.strerror}.") from error
