"""`metergate operator margin`: what was charged less what it cost at the providers."""

import csv
import io
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.cli.commands import Connect
from billing.cli.operator import add_call
from billing.cli.options import Cursor, Limit
from billing.cli.output import Shown, Table
from billing.pages import DEFAULT_LIMIT

if TYPE_CHECKING:
    from billing.calls import BillingCalls
    from billing.shapes.margin import MarginShape

Since = Annotated[str | None, typer.Option(metavar="DAY", help="From this day of UTC on; else the month's first.")]
Until = Annotated[str | None, typer.Option(metavar="DAY", help="Before this day; else until now.")]
_COLUMNS: Final = (
    *("events", "cost USD", "charged USD", "margin USD", "margin %", "estimated", "unpriced", "voided"),
    *("returned USD", "net USD"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def add_margin(app: typer.Typer, connect: Connect) -> None:
    """Add `margin`."""
    add_call(app, "margin", margin, connect)


async def margin(
    client: "BillingCalls",
    since: Since = None,
    until: Until = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="account, model, provider or day.")] = "account",
    as_csv: Annotated[bool, typer.Option("--csv", help="All fields of the groups as CSV.")] = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Shown:
    """Show what was charged less what it cost, with estimated, unpriced and voided work beside it."""
    query = {"since": since, "until": until, "by": by, "limit": str(limit), "cursor": cursor}
    found = await client.margin(query)
    if as_csv:
        return Shown(found.received, (_csv(found.received["by"], found.received["data"]),))
    rows = [(each.group or "-", *_row(each)) for each in found.data]
    rows.append(("total", *_row(found.total)))
    more = (f"There are more: --cursor {found.next_cursor}",) if found.next_cursor else ()
    said = f"From {found.since} and before {found.until} (days of UTC):"
    return Shown(found.received, (said, Table((by, *_COLUMNS), rows), *more))


def _row(each: "MarginShape") -> tuple[str, ...]:
    return (
        *(str(each.events), each.cost_usd, each.charged_usd, each.margin_usd, each.margin_percent or "-"),
        *(str(each.estimated_events), str(each.unpriced_events), str(each.voided_events)),
        *(each.returned_usd or "-", each.net_usd),
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
