"""`metergate operator stripe`: events of the payment provider, and the comparison with it."""

from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.commands import Connect
from billing.cli.operator import add_call
from billing.cli.options import Cursor, Limit
from billing.cli.output import Shown, Table, page_parts
from billing.pages import DEFAULT_LIMIT

if TYPE_CHECKING:
    from billing.payment_calls import PaymentCalls
    from billing.shapes.payment_events import ComparisonShape


def add_payment_events(app: typer.Typer, connect: Connect) -> None:
    """Add `events`, `replay` and `reconcile`."""
    add_call(app, "events", events, connect)
    add_call(app, "replay", replay, connect)
    add_call(app, "reconcile", reconcile, connect)


async def events(
    client: "PaymentCalls",
    state: Annotated[str | None, typer.Option(metavar="STATE", help="waiting, done, ignored or parked.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Shown:
    """List events that the payment provider has delivered, those that came last first."""
    page = await client.payment_events(state=state, limit=limit, cursor=cursor)
    rows = [
        (each.received_at, each.id, each.type, each.object_id or "-", each.state, str(each.attempts), each.error or "-")
        for each in page.data
    ]
    headers = ("received", "event", "type", "object", "state", "tries", "error")
    return Shown(page.received, page_parts(headers, rows, page.next_cursor))


async def replay(
    client: "PaymentCalls",
    event_id: Annotated[str, typer.Argument(help="The event's id, evt_...", show_default=False)],
) -> Shown:
    """Have an event looked into once more; what it has moved is not moved again."""
    event = await client.replay_payment_event(event_id)
    return Shown(event.received, (f"{event.id} ({event.type}) is {event.state}: a gateway looks into it.",))


async def reconcile(
    client: "PaymentCalls",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Compare all that was made since: a time, or a day.")
    ] = None,
) -> Shown:
    """Show how the provider's payments differ from ours; with --since a gateway compares them anew."""
    if since is None:
        found = await client.payment_comparison()
        return Shown(found.received, (_standing(found), *_differences(found)))
    found = await client.compare_payments(since)
    said = f"A gateway compares all since {found.asked_since} now: this command without --since shows what it finds."
    return Shown(found.received, (said,))


def _standing(found: "ComparisonShape") -> str:
    if found.began_at is None:
        return f"Nothing was compared with {found.provider} yet."
    if found.ended_at is None:
        return f"A comparison with {found.provider} since {found.since} runs since {found.began_at}, or was broken off."
    ended = f"{found.compared} objects since {found.since} were compared with {found.provider} until {found.ended_at}"
    return f"{ended}; {len(found.differences)} differ." if found.error is None else f"{ended}, then: {found.error}"


def _differences(found: "ComparisonShape") -> tuple[Table, ...]:
    headers = ("object", "id", "account", "order", "difference", "found")
    rows = [
        (
            each.object,
            each.object_id,
            each.account_id or "-",
            each.order_id or "-",
            each.difference,
            each.found_at or "-",
        )
        for each in found.differences
    ]
    return (Table(headers, rows),) if rows else ()
