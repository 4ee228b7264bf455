"""`metergate operator order`: what was bought, money given back, and payments that could not be credited; and
`metergate operator exports`: usage on its way to other systems, and what these do not take."""

from typing import TYPE_CHECKING, Annotated

import typer
from ulid import ULID

from billing.cli.commands import Connect, group
from billing.cli.confirmation import Yes, confirm
from billing.cli.operator import add_calls, repeatable
from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import Shown, details, listed
from billing.pages import MAX_LIMIT

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

OrderId = Annotated[str, typer.Argument(help="The order's id, ord_...", show_default=False)]
ParkedId = Annotated[
    str, typer.Argument(help="The id of what waits, prk_..., or that of its order.", show_default=False)
]


def add_orders(app: typer.Typer, connect: Connect) -> None:
    """Add the group `order`."""
    order = group("What was bought: orders, refunds of them, and payments that could not be credited.")
    add_calls(order, connect, list=index, show=show, credit=credit, dismiss=dismiss, refund=refund)
    app.add_typer(order, name="order")


async def index(
    client: "BillingCalls",
    account_id: Annotated[str | None, typer.Option("--account", metavar="ACCOUNT_ID", help="Of one account.")] = None,
    status: Annotated[
        str | None,
        typer.Option(help="open, paid, credited, failed, expired, refunded, disputed or parked.", metavar="STATUS"),
    ] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Payments that wait for you, with the reason.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List orders, newest first; with --parked payments that could not be credited."""
    if parked:
        return listed(
            await client.parked(**page.asked),
            "id",
            "order_id",
            "account_id",
            ("amount", lambda each: f"{each.amount_usd} {each.currency}"),
            "reason",
        )
    return listed(
        await client.orders(account_id=account_id, **page.asked, **given(status=status)),
        "id",
        "account_id",
        "kind",
        "amount_usd",
        "refunded_usd",
        "status",
        "created_at",
    )


async def show(client: "BillingCalls", order_id: OrderId) -> Shown:
    """Show an order."""
    order = await client.order(order_id)
    rows = [
        ("order", order.id),
        ("account", order.account_id),
        ("kind", order.kind if order.plan is None else f"{order.kind} {order.plan}"),
        ("amount USD", order.amount_usd),
        ("status", order.status),
        ("reason", order.reason or "-"),
        ("refunded USD", order.refunded_usd),
        ("disputed USD", order.disputed_usd),
        ("payment", f"{order.provider} {order.payment_id or '-'}"),
        ("transaction", order.transaction_id or "-"),
        ("created", order.created_at),
    ]
    return details(order, rows)


async def credit(
    client: "BillingCalls",
    parked_id: ParkedId,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ACCOUNT_ID", help="Whose it is, where that is not known.")
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the ledger keeps it.")] = None,
    yes: Yes = False,
) -> Shown:
    """Give a payment that waits to its account."""
    if not yes:
        waiting = (await client.parked(limit=MAX_LIMIT)).data
        of = next((each for each in waiting if parked_id in (each.id, each.order_id)), None)
        amount = "its whole amount" if of is None else f"{of.amount_usd} {of.currency}"
        whose = account_id or (None if of is None else of.account_id) or "its account"
        confirm((f"{amount} of the payment {parked_id} is credited to {whose}.",), yes=yes)

    done = await client.credit_parked(parked_id, account_id=account_id, note=note)
    return Shown(done.received, (f"{done.amount_usd} USD of {done.payment_id} are credited to {done.account_id}.",))


async def dismiss(
    client: "BillingCalls",
    parked_id: ParkedId,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why.", show_default=False)],
) -> Shown:
    """Decide that a payment that waits is not credited."""
    done = await client.dismiss_parked(parked_id, note=note)
    return Shown(done.received, (f"{done.payment_id} is dismissed: nothing is credited.",))


async def refund(
    client: "BillingCalls",
    order_id: OrderId,
    amount_usd: Annotated[
        str | None, typer.Option("--amount", metavar="USD", help="How much; else all that is left of its credit.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same again gives nothing back twice.")
    ] = None,
    yes: Yes = False,
) -> Shown:
    """Give money of an order back to the payer, at most what is left of its credit."""
    if not yes:
        order = await client.order(order_id)
        what = "All that is left of its credit is" if amount_usd is None else f"{amount_usd} USD are"
        paid = f"{order.id} of {order.account_id}: {order.amount_usd} USD were paid by {order.provider}."
        confirm((paid, f"{what} given back to the means of payment, and taken from the balance."), yes=yes)
    key = idempotency_key or str(ULID())
    with repeatable("refund", key):
        done = await client.refund_order(order_id, idempotency_key=key, **given(amount_usd=amount_usd or None))
    return Shown(done.received, (f"{done.amount_usd} USD are given back: {done.refund_id} ({done.status}).",))


def add_exports(app: typer.Typer, connect: Connect) -> None:
    """Add the group `exports`."""
    exports = group("Usage on its way to other systems.")
    add_calls(exports, connect, list=list_exports, parked=list_parked, retry=retry)
    app.add_typer(exports, name="exports")


async def list_exports(client: "BillingCalls") -> Shown:
    """List exports: how many events wait, for how long the oldest does, and what is parked."""
    return listed(
        await client.exports(),
        ("export", "name"),
        "kind",
        "waiting",
        ("lag", lambda each: f"{each.lag_seconds} s"),
        "parked",
        ("last failure", "error"),
    )


async def list_parked(
    client: "BillingCalls",
    export: Annotated[str | None, typer.Option("--export", metavar="NAME", help="Of one export.")] = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List what the other sides do not take, newest first, and why."""
    return listed(
        await client.parked_exports(export=export, **page.asked),
        "export",
        "item",
        "account_id",
        ("reason", lambda each: each.reason + (" (is tried again)" if each.again else "")),
    )


async def retry(
    client: "BillingCalls",
    export: Annotated[str, typer.Argument(help="The export's name.", show_default=False)],
    item: Annotated[str | None, typer.Argument(help="One item, as `parked` names it.", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that is parked of this export.")] = False,
) -> Shown:
    """Have tried again what is parked, once the cause is mended."""
    if (item is None) != all_:
        raise typer.BadParameter("name an item, or give --all", param_hint="item")
    done = await client.retry_exports(export=export, item=item)
    return Shown(done.received, (f"{done.retried} items of {export} are tried again.",))
