"""`metergate billing auto-recharge`: the saved payment method is charged when credit runs low."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billing.cli.confirmation import Yes, confirm
from billing.cli.output import USAGE, CommandFailed, Shown, details
from billing.cli.people import add_person_calls
from billing.cli.session import FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.credit import RechargeShape

Usd = typer.Option(metavar="USD", help="Else as it is.")


def add_auto_recharge(app: typer.Typer, find: FindSession) -> None:
    """Add its commands."""
    add_person_calls(app, find, show=show, set=change, off=end)


async def show(client: "BillingCalls") -> Shown:
    """Show whether and when the saved payment method is charged, and what became of it."""
    return _shown(await client.auto_recharge())


async def change(
    client: "BillingCalls",
    threshold_usd: Annotated[str | None, Usd] = None,
    amount_usd: Annotated[str | None, Usd] = None,
    monthly_cap_usd: Annotated[str | None, Usd] = None,
    yes: Yes = False,
) -> Shown:
    """Have the saved payment method charged --amount-usd when what may be spent falls below --threshold-usd, in a month
    no more than --monthly-cap-usd. What stopped it before is forgotten. Shows the amounts, and asks."""
    wish = await _wish(client, threshold_usd, amount_usd, monthly_cap_usd, enabled=True)
    when = f"when less than {wish['threshold_usd']} USD may be spent, at most {wish['monthly_cap_usd']} USD a month"
    confirm((f"Your saved payment method is charged {wish['amount_usd']} USD {when}.",), yes=yes)
    return _shown(await client.set_auto_recharge(**wish))


async def end(client: "BillingCalls") -> Shown:
    """Charge the saved payment method no more."""
    found = await client.auto_recharge()
    if not found.amount_usd:
        return _shown(found)
    return _shown(await client.set_auto_recharge(**await _wish(client, None, None, None, enabled=False)))


async def _wish(client: "BillingCalls", *given: str | None, enabled: bool) -> dict[str, Any]:
    """Return what is to be asked of auto-recharge; amounts that are not given stay."""
    found = await client.auto_recharge()
    before = found.threshold_usd, found.amount_usd, found.monthly_cap_usd
    threshold, amount, cap = (old if new is None else new for new, old in zip(given, before, strict=True))
    if threshold is None or amount is None or cap is None:
        raise CommandFailed("Give --threshold-usd, --amount-usd and --monthly-cap-usd: nothing was set yet.", USAGE)
    return {"enabled": enabled, "threshold_usd": threshold, "amount_usd": amount, "monthly_cap_usd": cap}


def _shown(found: "RechargeShape") -> Shown:
    rows: list[tuple[str, str]] = [("auto-recharge", found.state)]
    if found.amount_usd is not None:
        rows += [("below USD", found.threshold_usd or "-"), ("charged USD", found.amount_usd)]
        rows.append(("a month at most USD", found.monthly_cap_usd or "-"))
    rows += [(name, text) for name, text in (("why", found.reason), ("act at", found.url)) if text is not None]
    if found.next_attempt_at is not None:
        rows.append(("next try", found.next_attempt_at))
    return details(found, rows)
