"""`metergate operator margin` and `provider`: charges less costs, and providers' bills compared with the ledger."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.api.operations import OversightOperations
from billing.cli.calls import add_calls, argument, command_of, option
from billing.cli.commands import Connect, group
from billing.cli.operator import shown_providers, shown_test
from billing.cli.options import FIRST_PAGE, Paging, day, given
from billing.cli.output import USAGE, Column, CommandFailed, Shown, cell_of, page_parts, title
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.margin import BillRowShape, BillSumShape

Since = Annotated[str | None, day("From this day of UTC on, or 7d, yesterday; else the month's first.")]
Until = Annotated[str | None, day("Before this day; else until now.")]
_COLUMNS: Final[tuple[Column, ...]] = (
    "events",
    "cost_usd",
    "charge_usd",
    "margin_usd",
    ("margin %", "margin_percent"),
    ("estimated", "estimated_events"),
    ("unpriced", "unpriced_events"),
    ("voided", "voided_events"),
    "returned_usd",
    "net_usd",
)
_FOLDED: Final = ("returned USD", "voided", "unpriced", "estimated")
_SIDES: Final = ("requests", "bill", "tokens in", "bill", "tokens out", "bill", "USD", "bill")
# Rows of a comparison that people are shown; --json has all.
_SHOWN: Final = 50
_MOST_FILE_BYTES: Final = 16 * 1024 * 1024
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def add_margin(app: typer.Typer, connect: Connect) -> None:
    """Add `margin`, and the group `provider`."""
    add_calls(app, connect, margin=margin)
    provider = group("Providers of the configuration, and their bills.")
    health = "List providers and the health of their base URLs and keys."
    within = {"within": option("TIME", "How attempts ended in the last 15m, 1h, 24h or 7d.")}
    listed = command_of(OversightOperations.providers, health, shown_providers, within)
    test = command_of(
        OversightOperations.test_provider,
        "Send a provider one small request now. It costs you at most 16 tokens of output; no account is charged.",
        shown_test,
        {
            "provider": argument("The provider, as the configuration calls it."),
            "model": option("MODEL", "This model. Without it the cheapest that writes."),
            "target": option("NUMBER", "The base URL and key of this number, as `provider list` has it."),
        },
    )
    add_calls(provider, connect, list=listed, test=test, reconcile=reconcile)
    app.add_typer(provider, name="provider")


async def margin(
    client: "BillingCalls",
    *,
    since: Since = None,
    until: Until = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="account, model, provider or day.")] = "account",
    as_csv: Annotated[bool, typer.Option("--csv", help="All fields of the groups as CSV.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """Show what was charged less what it cost. Estimated, unpriced and voided work stands beside it."""
    found = await client.margin(since=since, until=until, **page.asked, **given(by=by))
    if as_csv:
        return Shown(found.received, (_csv(found.received["by"], found.received["data"]),))
    groups = [(each.group or "-", each) for each in found.data]
    rows = [(name, *(cell_of(each, column) for column in _COLUMNS)) for name, each in (*groups, ("total", found.total))]
    parts = page_parts(Table((by, *map(title, _COLUMNS)), rows, _FOLDED), found.next_cursor)
    return Shown(found.received, (f"From {found.since} and before {found.until} (days of UTC):", *parts))


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
    *,
    provider: Annotated[str, typer.Option(metavar="NAME", help="The provider, as the configuration calls it.")],
    since: Annotated[str, day("From this day of UTC on, such as 2027-01-31, or 7d.")],
    until: Annotated[str | None, day("Before this day; else until today.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its invoice as CSV, instead of what its API says.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="The invoice's own name of a column, such as amount_usd=Cost."),
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Use what was fetched last; ask no provider.")] = False,
) -> Shown:
    """Compare a provider's bill with the ledger. By day and model."""
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
