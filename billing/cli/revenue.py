"""`metergate operator revenue`: what customers paid, what failed and went back, what subscriptions bring a month."""

from typing import TYPE_CHECKING, Any, Final

import typer

from billing.api.operations import PaymentOperations
from billing.cli.calls import add_calls, command_of, option
from billing.cli.commands import Connect, group
from billing.cli.options import parse_moment
from billing.cli.output import Column, Shown, Table, cell_of, columns, title

if TYPE_CHECKING:
    from billing.schemas.payments import RevenueShape

_SUMS: Final[tuple[Column, ...]] = (
    "payments",
    "paid_usd",
    "failed",
    "refunded_usd",
    "disputed_usd",
    "net_usd",
)
_STANDING: Final[tuple[Column, ...]] = (("MRR USD", "mrr_usd"), "subscribers")
_TIMES: Final = {
    "since": option("TIME", "From then on: a time, a day, or 7d, 24h, today, yesterday.", read=parse_moment),
    "until": option("TIME", "Before then.", read=parse_moment),
}
_ACCOUNT: Final = option("ACCOUNT_ID", "Of this account.", "--account")


def add_revenue(app: typer.Typer, connect: Connect) -> None:
    """Add the group `revenue`."""
    revenue = group("What customers paid, what failed and went back, what subscriptions bring a month.")
    add_calls(
        revenue,
        connect,
        show=command_of(
            PaymentOperations.revenue,
            "Show revenue by day or month of UTC, and subscribers by plan.",
            _shown,
            {**_TIMES, "step": option("NAME", "day or month.")},
        ),
        charges=command_of(
            PaymentOperations.charges,
            "List payments, newest first: those that were paid, or that have failed.",
            columns(
                ("time", "created_at"),
                "account_id",
                "kind",
                "plan",
                "amount_usd",
                "tax_usd",
                "reason",
                "order_id",
                "id",
            ),
            {"account_id": _ACCOUNT, "status": option("STATUS", "paid or failed."), **_TIMES},
        ),
        returns=command_of(
            PaymentOperations.returns,
            "List refunds and disputes, newest first.",
            columns(("time", "created_at"), "kind", "account_id", "amount_usd", "status", "order_id", "payment_id"),
            {"account_id": _ACCOUNT, "kind": option("KIND", "refund or dispute."), **_TIMES},
        ),
        subscriptions=command_of(
            PaymentOperations.paid_subscriptions,
            "List the subscriptions that are paid for, newest first.",
            columns("account_id", "plan", ("a month USD", "mrr_usd"), "status", "period_end", "ends_at", "id"),
            {"plan": option("PLAN", "To this plan.")},
        ),
    )
    app.add_typer(revenue, name="revenue")


def _shown(found: "RevenueShape", _: Any) -> Shown:
    rows = [
        (each.start[:10], *(cell_of(each, column) for column in (*_SUMS, *_STANDING)))
        for each in found.data
        if each.payments or each.failed or each.refunds or each.disputed_usd != "0.00"
    ]
    total = ("total", *(cell_of(found.total, each) for each in _SUMS), found.mrr_usd, str(found.subscribers))
    heads = (found.step, *map(title, (*_SUMS, *_STANDING)))
    plans = [(each.plan or "-", str(each.subscribers), each.mrr_usd) for each in found.plans]
    said = f"From {found.since} and before {found.until} (UTC); {found.step}s without payments are left out."
    parts: list[str | Table] = [said, Table(heads, [*rows, total])]
    if plans:
        parts.append(Table(("plan", "subscribers", "MRR USD"), plans))
    return Shown(found.received, tuple(parts))
