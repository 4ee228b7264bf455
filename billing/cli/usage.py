"""`metergate usage`: what was used, as a table or as CSV; `metergate requests`: one's own last requests, metered or
refused; and how one came to its charge, for `explain`."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from msgspec import UNSET

from billing.cli.calls import add_person_calls, explained_to_people
from billing.cli.commands import add_command
from billing.cli.options import ANY_REQUEST, FIRST_PAGE, REMOTE, Paging, RequestFilter, given, moment
from billing.cli.output import Column, CommandFailed, Output, Shown, details, listed, page_parts, title, whole_file
from billing.cli.session import FindSession
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.system import RefusedShape
    from billing.schemas.usage import ExplainedEventShape, LineShape, UsedShape

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
_FOLDED: Final = ("input", "output")

# Columns of a line of the arithmetic.
_CLASS, _QUANTITY = 14, 12
# What a list of requests begins with.
_REQUEST: Final[tuple[Column, ...]] = (("time", "created_at"), ("request", "id"), "key_id", "model")

Query = dict[str, str | None]
_FIELDS: Final = {"key": "key_id", "user": "user_id"}


@dataclass(frozen=True, slots=True)
class About:
    """What of it is shown."""

    since: Annotated[str | None, moment("From then on: a time, a day, or 7d, 24h, today, yesterday.")] = None
    until: Annotated[str | None, moment("Before then.")] = None
    tz: Annotated[str | None, typer.Option(metavar="ZONE", help="Where days begin, such as Europe/Helsinki.")] = None
    group_by: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Up to two of model, key, user, provider, endpoint, feature, tag:NAME."),
    ] = None
    granularity: Annotated[
        str | None, typer.Option(metavar="STEP", help="Of buckets: minute, hour, day, week, month.")
    ] = None
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Of one key.")] = None
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
        """Show what was used. A summary, buckets of time, single requests, or totals."""
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
        rows = [(title(name), str(value)) for name, value in shown.items()]
        return details(totals, rows)
    query["limit"] = limit
    if what == "summary":
        return await _summary(client, query)
    if what == "buckets":
        return await _buckets(client, query)
    tokens = ("input", "input_tokens"), ("output", "output_tokens")
    return listed(
        await client.usage_events(**query), *_REQUEST, "status", *tokens, "charge_usd", folded=("key", *_FOLDED)
    )


async def _summary(client: "BillingCalls", query: dict[str, Any]) -> Shown:
    summary = await client.usage_summary(**query)
    names = tuple(summary.group_by)
    rows = [(*(each.group.get(name) or "-" for name in names), *_used(each)) for each in summary.data]
    rows.append((*("total" if index == 0 else "" for index in range(len(names))), *_used(summary.total)))
    since, until = summary.since or "the beginning", summary.until or "now"
    parts = page_parts(Table((*names, *_USED), rows, _FOLDED), summary.next_cursor)
    return Shown(summary.received, (f"From {since} until {until} ({summary.tz}):", *parts))


async def _buckets(client: "BillingCalls", query: dict[str, Any]) -> Shown:
    buckets = await client.usage_buckets(**query)
    names = tuple(buckets.group_by)
    rows: list[tuple[str, ...]] = []
    for each in buckets.data:
        rows.append((each.local_start, *("" for _ in names), *_used(each)))
        rows += [("", *(group.group.get(name) or "-" for name in names), *_used(group)) for group in each.groups]
    table = Table(("from", *names, *_USED), rows, _FOLDED)
    return Shown(buckets.received, page_parts(table, buckets.next_cursor))


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
    with whole_file(Path(csv)) as file:
        await client.download(path, query, "text/csv", counted(file.write))
    return Shown({"file": csv, "bytes": received}, (f"{csv} has {received} bytes.",))


def add_requests(app: typer.Typer, find: FindSession) -> None:
    """Add `requests`."""
    add_person_calls(app, find, requests=requests)


async def requests(
    client: "BillingCalls",
    refused: Annotated[bool, typer.Option("--refused", help="Show refused requests, with the reason.")] = False,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Of one key.")] = None,
    which: RequestFilter = ANY_REQUEST,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List your account's last requests, newest first. `metergate explain` says more of one."""
    if refused:
        if which != ANY_REQUEST or page.cursor is not None:
            raise typer.BadParameter("goes with --key and --limit alone", param_hint="--refused")
        return listed(await client.own_refusals(key_id=key, limit=page.limit), *_REQUEST, "code", folded=("key",))
    found = await client.usage_events(key_id=key, **asdict(which), **page.asked)
    return listed(found, *_REQUEST, "status", ("tokens", "total_tokens"), "charge_usd", folded=("key", "tokens"))


async def explained(client: "BillingCalls", request_id: str) -> Shown:
    """Return how a request came to its charge; of one that was refused, what it lacked. Raises `CommandFailed` where it
    is none of the account's, and what the client raises."""
    from billing.client.errors import Refused

    try:
        return shown_event(await client.usage_event(request_id))
    except Refused as error:
        if error.code != "not_found":
            raise
    try:
        return shown_refusal(await client.own_refusal(request_id))
    except Refused as error:
        if error.code != "not_found":
            raise
    raise CommandFailed(
        f"Your account has no request {request_id!r}, and no refusal of it is kept: give the x-request-id of its "
        "answer."
    )


def shown_event(event: "ExplainedEventShape") -> Shown:
    """Return a request with the lines of its charge, as a command shows it; what it cost at the provider stands there
    where the gateway tells."""
    rows = [
        ("when", event.created_at),
        ("account", f"{event.account_id}, key {event.key_id}" + (f", user {event.user_id}" if event.user_id else "")),
        ("model", f"{event.model}, served by {event.provider} as {event.provider_model}"),
        ("outcome", f"{event.outcome}, HTTP {event.status}" + (", counts estimated" if event.estimated else "")),
    ]
    if event.multiplier is not None:
        rows.append(("variant", f"{event.multiplier}, each line times {event.multiplier_factor}"))
    if isinstance(event.price_id, str):
        rows.append(("price", event.price_id or "none"))
    rows += [("", _arithmetic(line)) for line in event.lines]
    if isinstance(event.cost_usd, str):
        rows.append(("cost", f"{event.cost_usd} USD: the sum, rounded up to 0.000000001"))
        rows.append(("charge", f"{event.charge_usd} USD: with a markup of {event.markup_percent}%"))
    else:
        how = "the sum, rounded up to 0.000000001" if event.lines else "not made from these counts"
        rows.append(("charge", f"{event.charge_usd} USD: {how}"))
    if event.note:
        rows.append(("note", event.note))
    return Shown(event.received, (f"Request {event.id}", Table((), rows)))


def _arithmetic(line: "LineShape") -> str:
    prices = (
        (line.price_usd_per_million, "a million"),
        (line.price_usd_per_hour, "an hour"),
        (line.price_usd, "a second" if line.price_class == "second" else "each"),
    )
    price = next(f"{usd} USD {per}" for usd, per in prices if isinstance(usd, str))
    text = f"{line.price_class:<{_CLASS}} {line.quantity:>{_QUANTITY}} at {price} = {line.amount_usd} USD"
    return f"{text} ({line.provider_model})" if isinstance(line.provider_model, str) else text


def shown_refusal(refused: "RefusedShape") -> Shown:
    """Return a refused request as a command shows it: when, why, and what it lacked."""
    fields = msgspec.structs.asdict(refused).items()
    rows = [
        (name.replace("_", " "), _text(value)) for name, value in fields if name != "details" and value is not UNSET
    ]
    rows += _details(refused.details)
    return Shown(refused.received, (f"{refused.id} was refused; nothing was charged.", Table((), rows)))


def _details(details: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {field.replace('_', ' ')}", _text(each)) for field, each in value.items())
        else:
            yield name.replace("_", " "), _text(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
