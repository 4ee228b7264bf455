"""`metergate operator margin` and `provider`: charges less costs, and providers' bills compared with the ledger."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli.commands import Connect, group
from billing.cli.operator import add_calls, providers
from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import USAGE, CommandFailed, Shown, Table

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.margin import BillRowShape, BillSumShape, MarginShape

Since = Annotated[str | None, typer.Option(metavar="DAY", help="From this day of UTC on; else the month's first.")]
Until = Annotated[str | None, typer.Option(metavar="DAY", help="Before this day; else until now.")]
_COLUMNS: Final = (
    "events",
    "cost USD",
    "charge USD",
    "margin USD",
    "margin %",
    "estimated",
    "unpriced",
    "voided",
    "returned USD",
    "net USD",
)
_SIDES: Final = ("requests", "bill", "tokens in", "bill", "tokens out", "bill", "USD", "bill")
# Rows of a comparison that people are shown; --json has all.
_SHOWN: Final = 50
_MOST_FILE_BYTES: Final = 16 * 1024 * 1024
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def add_margin(app: typer.Typer, connect: Connect) -> None:
    """Add `margin`."""
    add_calls(app, connect, margin=margin)


def add_providers(app: typer.Typer, connect: Connect) -> None:
    """Add the group `provider`."""
    provider = group("Providers of the configuration, and their bills.")
    add_calls(provider, connect, list=providers, reconcile=reconcile)
    app.add_typer(provider, name="provider")


async def margin(
    client: "BillingCalls",
    since: Since = None,
    until: Until = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="account, model, provider or day.")] = "account",
    as_csv: Annotated[bool, typer.Option("--csv", help="All fields of the groups as CSV.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """Show what was charged less what it cost, with estimated, unpriced and voided work beside it."""
    found = await client.margin(since=since, until=until, **page.asked, **given(by=by))
    if as_csv:
        return Shown(found.received, (_csv(found.received["by"], found.received["data"]),))
    rows = [(each.group or "-", *_row(each)) for each in found.data]
    rows.append(("total", *_row(found.total)))
    more = (f"There are more: --cursor {found.next_cursor}",) if found.next_cursor else ()
    title = f"From {found.since} and before {found.until} (days of UTC):"
    return Shown(found.received, (title, Table((by, *_COLUMNS), rows), *more))


def _row(each: "MarginShape") -> tuple[str, ...]:
    return (
        str(each.events),
        each.cost_usd,
        each.charge_usd,
        each.margin_usd,
        each.margin_percent or "-",
        str(each.estimated_events),
        str(each.unpriced_events),
        str(each.voided_events),
        each.returned_usd or "-",
        each.net_usd,
    )


def _csv(by: str, groups: list[dict[str, object]]) -> str:
    """Return groups as CSV; no name is a formula to a spreadsheet."""
    text = io.StringIO(newline="")
    fields = [name for name in groups[0] if name != "group"] if groups else []
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow((by, *fields))
    for each in groups:
        name = str(each["group"])
        lines.writerow((f"'{name}" if name.startswith(_FORMULA) else name, *(each[field] for field in fields)))
    return text.getvalue().rstrip("\n")


async def reconcile(
    client: "BillingCalls",
    provider: Annotated[str, typer.Option(metavar="NAME", help="The provider, as the configuration calls it.")],
    since: Annotated[str, typer.Option(metavar="DAY", help="From this day of UTC on, such as 2027-01-31.")],
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Before this day; else until today.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its invoice as CSV, instead of what its API says.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="The invoice's own name of a column, such as amount_usd=Cost."),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="What was fetched last: nobody is asked.")] = False,
) -> Shown:
    """Compare what a provider says that it has billed with the ledger, by day and model."""
    if kept:
        found = await client.bill(provider, since=since, until=until, source="api" if file is None else "invoice")
    else:
        names = dict(_pair(each) for each in column or ())
        invoice = None if file is None else _read(file)
        rest = given(until=until, columns=names or None)
        found = await client.reconcile_bill(provider, since=since, invoice=invoice, **rest)
    rows = [(name.replace("_", " "), *_sums(each)) for name, each in found.categories.items()]
    rows.append(("total", *_sums(found.total)))
    parts: list[str | Table] = [
        f"{found.provider}, from {found.since} and before {found.until} (days of UTC): the ledger and the bill.",
        Table(("", "lines", *_SIDES), rows),
    ]
    differing = [each for each in found.data if each.category != "matched"]
    if differing:
        header = ("day", "model", "category", "ledger USD", "bill USD", "difference USD", "tokens")
        parts.append(Table(header, [_difference(each) for each in differing[:_SHOWN]]))
    if len(differing) > _SHOWN:
        parts.append(f"There are {len(differing) - _SHOWN} more: --json has them.")
    return Shown(found.received, tuple(parts))


def _pair(text: str) -> tuple[str, str]:
    name, is_pair, theirs = text.partition("=")
    if not (name and is_pair and theirs):
        raise typer.BadParameter(f"{text!r}: expected OURS=THEIRS, such as amount_usd=Cost", param_hint="--column")
    return name, theirs


def _read(file: Path) -> str:
    try:
        with file.open("rb") as invoice:
            content = invoice.read(_MOST_FILE_BYTES + 1)
        if len(content) > _MOST_FILE_BYTES:
            raise CommandFailed(f"{file} is larger than {_MOST_FILE_BYTES} bytes.", USAGE)
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"Cannot read {file}: {error}.", USAGE) from error


def _sums(each: "BillSumShape") -> tuple[str, ...]:
    ours, theirs = each.ledger, each.bill
    counted = ((ours.requests, theirs.requests), (ours.input_tokens, theirs.input_tokens))
    pairs = (*counted, (ours.output_tokens, theirs.output_tokens), (ours.usd, theirs.usd))
    return str(each.lines), *(str(side) for pair in pairs for side in pair)


def _difference(each: "BillRowShape") -> tuple[str, ...]:
    tokens = {True: "agree", False: "differ", None: "-"}[each.tokens_agree]
    names = each.day, each.model or "-", each.category.replace("_", " ")
    return *names, each.ledger.usd, each.bill.usd, each.difference_usd, tokens
