"""`metergate operator lots` and `coupon`: what is left of an account's credit, and codes that are credit."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.accounts import amount_nano, exceeds_confirmed
from billing.cli.commands import Connect, group
from billing.cli.confirmation import Yes, confirm
from billing.cli.operator import add_calls
from billing.cli.options import FIRST_PAGE, AccountId, Paging, given
from billing.cli.output import Shown, details, listed
from billing.money import DEFAULT_PRIORITY, MOST_PRIORITY

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

Priority = Annotated[int, typer.Option(min=0, max=MOST_PRIORITY, help="What is drawn first has the lowest.")]


def add_credit(app: typer.Typer, connect: Connect) -> None:
    """Add `lots` and the group `coupon`."""
    add_calls(app, connect, lots=lots)
    coupon = group("Codes that are credit, once for each account.")
    add_calls(coupon, connect, create=create, list=index, disable=disable)
    app.add_typer(coupon, name="coupon")


async def lots(
    client: "BillingCalls",
    account_id: AccountId,
    open_only: Annotated[bool, typer.Option("--open", help="Those alone of which something is left.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List the grants and purchases of an account, newest first, with what is left of each."""
    return listed(
        await client.account_lots(account_id, **page.asked, **given(open="true" if open_only else None)),
        "id",
        "kind",
        "state",
        "amount_usd",
        "left_usd",
        "priority",
        "promotional",
        "expires_at",
    )


@dataclass(frozen=True, slots=True)
class NewCoupon:
    """A coupon to make."""

    name: Annotated[str, typer.Argument(help="What to call it; the ledger keeps it.", show_default=False)]
    amount_usd: Annotated[str, typer.Argument(help="How much for each account, such as 5.00.", show_default=False)]
    code: Annotated[
        str | None, typer.Option(metavar="CODE", help="6 to 64 letters and digits; else one is made up.")
    ] = None
    priority: Priority = DEFAULT_PRIORITY
    credit_days: Annotated[
        int | None, typer.Option(metavar="DAYS", min=1, help="For how long the credit lasts; else for ever.")
    ] = None
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until when it can be redeemed; else for ever.")
    ] = None
    max_redemptions: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="By how many accounts; else by all.")
    ] = None


async def create(
    client: "BillingCalls",
    coupon: NewCoupon,
    yes: Yes = False,
) -> Shown:
    """Make a coupon. Its code is printed once. Asks before it may give much (`grant_confirm_usd`)."""
    most = coupon.max_redemptions
    if not yes and await exceeds_confirmed(client, None if most is None else amount_nano(coupon.amount_usd) * most):
        accounts = "any number of accounts" if most is None else f"up to {most} accounts"
        confirm((f"The code gives {coupon.amount_usd} USD of credit for free, to {accounts}.",), yes=yes)
    made = await client.create_coupon(**asdict(coupon))
    rows = [
        ("coupon", made.id),
        ("code", made.code),
        ("amount USD", made.amount_usd),
        ("can be redeemed until", made.expires_at or "for ever"),
        ("by", "all accounts" if made.max_redemptions is None else f"{made.max_redemptions} accounts"),
        ("credit lasts", "for ever" if made.credit_days is None else f"{made.credit_days} days"),
    ]
    return details(made, rows)


async def index(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List coupons, newest first, without their codes."""
    return listed(
        await client.coupons(**page.asked),
        "id",
        "name",
        "amount_usd",
        ("redeemed", lambda each: f"{each.redemptions}/{each.max_redemptions or '-'}"),
        ("until", "expires_at"),
        ("status", lambda each: "disabled" if each.disabled_at else "on"),
    )


async def disable(
    client: "BillingCalls",
    coupon_id: Annotated[str, typer.Argument(help="The coupon's id, cpn_...", show_default=False)],
) -> Shown:
    """Let a coupon be redeemed no more. What was redeemed stays."""
    await client.disable_coupon(coupon_id)
    return Shown({"id": coupon_id, "disabled": True}, (f"{coupon_id} can be redeemed no more.",))
