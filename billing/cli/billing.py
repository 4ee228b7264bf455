"""`metergate billing`: where the account stands, what to do about it, and the pages where that is done; what was
bought, and what happens when credit runs low: `auto-recharge`. `budget`: sums to stay within, which refuse nothing."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from billing.api.operations import (
    BudgetOperations,
    CreditOperations,
    PaymentOperations,
    PlanOperations,
)
from billing.cli.calls import add_person_calls, argument, command_of, ended, option
from billing.cli.commands import Call, group
from billing.cli.options import given
from billing.cli.output import USAGE, Column, CommandFailed, Shown, cell, cell_of, columns, details, facts, title
from billing.cli.prompts import Yes, confirm
from billing.cli.session import FindSession
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.credit import AlertShape, RechargeShape
    from billing.schemas.payments import (
        InvoiceShape,
        PageShape,
        PlanPreviewShape,
        StatusShape,
        SubscriptionShape,
    )
    from billing.schemas.usage import BillingSummaryShape

_RETURN: Final = ("URL", "Where the page leads to afterwards: an address on one of the operator's sites.")
ReturnUrl = Annotated[str | None, typer.Option(metavar=_RETURN[0], help=_RETURN[1])]
# Invoices that are looked at for new ones.
MOST_NEW: Final = 20
# How long the bill of a change of plan is waited for, at most: some six seconds.
INVOICE_PAUSES_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2)
_WINDOWS: Final[tuple[Column, ...]] = (
    ("quota of", "subject"),
    "window",
    "metric",
    "model",
    "limit",
    "used",
    "held",
    ("left", "remaining"),
    ("resets", lambda each: each.resets_at or "never"),
)
_FEATURES: Final[tuple[Column, ...]] = (
    "feature",
    "allowed",
    "limit",
    "used",
    ("left", "remaining"),
    ("resets", "resets_at"),
)
_BUDGET: Final[tuple[Column, ...]] = (
    "id",
    ("of", lambda each: each.tag or each.subject_id or "account"),
    "period",
    "amount_usd",
    "spent_usd",
    ("percent", lambda each: "-" if each.percent is None else f"{each.percent}%"),
    "forecast_usd",
    ("ends", lambda each: each.period_end or "never"),
)
_shown_budget: Final = facts(
    *_BUDGET,
    ("alerts at", lambda each: ", ".join(f"{percent}%" for percent in each.thresholds)),
    ("mails to", lambda each: ", ".join(each.notify) or "owners and admins"),
)


def add_billing(app: typer.Typer, find: FindSession) -> None:
    """Add the group `billing`."""
    billing = group("The account: what is left, and what comes next.")
    add_person_calls(
        billing,
        find,
        status=status,
        setup=setup,
        portal=command_of(
            PaymentOperations.billing_portal,
            "Open a page to manage methods, invoices and the plan. Prints its address.",
            _shown_page,
            {"return_url": option(*_RETURN)},
        ),
        plans=command_of(
            PaymentOperations.plans,
            "List the plans, the cheapest first.",
            columns(
                ("plan", "id"),
                "name",
                ("USD a month", "price_usd"),
                ("included USD", "included_credit_usd"),
                ("users", lambda each: "any" if each.users is None else each.users),
            ),
        ),
        checkout=checkout,
        change_plan=change_plan,
        orders=command_of(
            PaymentOperations.own_orders,
            "List orders, newest first.",
            columns(
                "id",
                ("what", lambda order: order.plan or order.kind),
                "amount_usd",
                "refunded_usd",
                "status",
                "created_at",
            ),
            {"status": option("STATUS", "open, paid, credited, failed, expired, refunded, disputed or parked.")},
        ),
        invoices=command_of(
            PaymentOperations.invoices,
            "List the bills of plans, newest first.",
            columns(
                ("number", lambda each: each.number or each.id),
                ("total", lambda each: f"{each.total_usd} {each.currency}"),
                "status",
                "created_at",
                ("page", "url"),
            ),
        ),
        receipts=_receipts(),
        prices=_prices(),
        redeem=redeem,
        alert=alert,
    )
    _add_auto_recharge(billing, find)
    _add_budgets(billing, find)
    app.add_typer(billing, name="billing")


def _receipts() -> Call:
    """Return the call that lists receipts."""
    return command_of(
        PaymentOperations.receipts,
        "List what was paid, newest first, with the receipts and invoices of it.",
        columns(
            "created_at",
            ("what", lambda each: each.plan or each.kind),
            "amount_usd",
            "tax_usd",
            "refunded_usd",
            "number",
            ("document", lambda each: each.pdf_url or each.invoice_url or each.url),
        ),
    )


def _prices() -> Call:
    """Return the call that lists what a plan's customers pay."""
    return command_of(
        PlanOperations.plan_prices,
        "List what a plan's customers pay for each model, in USD for a million tokens.",
        columns(
            ("model", "id"),
            ("provider", "owned_by"),
            ("input", lambda each: each.pricing.usd_per_million.get("input", "-")),
            ("cached", lambda each: each.pricing.usd_per_million.get("cached_input", "-")),
            ("output", lambda each: each.pricing.usd_per_million.get("output", "-")),
        ),
    )


async def status(client: "BillingCalls") -> Shown:
    """Show balance, plan and quotas, and what to do next. Features and this month, too."""
    found, month = await client.billing_status(), await client.billing_summary()
    parts: list[str | Table] = [Table((), [*_account(found), *_month(month), *_subscription(found.subscription)])]
    for rows, of in ((found.windows, _WINDOWS), (found.features, _FEATURES)):
        if rows:
            parts.append(
                Table(
                    tuple(map(title, of)), [tuple(cell_of(row, each) for each in of) for row in rows], ("model", "held")
                )
            )
    if found.state == "quota_exhausted":
        windows = [each for each in found.received["windows"] if _is_nothing(str(each["remaining"]))]
        parts.append(msgspec.json.encode(windows).decode())
    if (logs := found.body_logs) is not None:
        out = "" if logs.opt_out is None else f" A request with the header {logs.opt_out} is left out."
        parts.append(f"Bodies of a share of {logs.share} of your requests are logged for {logs.keep_days} days.{out}")
    parts += _next(found)
    return Shown({**found.received, "month": month.received}, tuple(parts))


async def setup(
    client: "BillingCalls",
    amount: Annotated[
        str | None, typer.Option("--amount-usd", metavar="USD", help="How much credit to buy; else the usual amount.")
    ] = None,
    save_only: Annotated[
        bool, typer.Option("--save-only", help="Buy nothing now, but leave a payment method for later.")
    ] = False,
    return_url: ReturnUrl = None,
) -> Shown:
    """Open a page to buy credit and save a payment method. Prints its address."""
    if save_only and amount is not None:
        raise typer.BadParameter("give --amount-usd or --save-only, not both", param_hint="--save-only")
    page = await client.setup_billing(return_url=return_url, save_only=save_only, **given(amount_usd=amount))
    return _shown_page(page)


async def checkout(
    client: "BillingCalls",
    *,
    amount: Annotated[
        str | None, typer.Option("--amount-usd", metavar="USD", help="How much credit to buy, in whole cents.")
    ] = None,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="Which plan to subscribe to.")] = None,
    save_method: Annotated[bool, typer.Option("--save-method", help="Keep the payment method for later.")] = False,
    return_url: ReturnUrl = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="A text of your own: the same again opens the same page."
        ),
    ] = None,
    yes: Yes = False,
) -> Shown:
    """Open a page to buy credit or a plan. Prints its address; asks before it orders a plan. Where there
    is a subscription already, --plan changes it, as `billing change-plan` does."""
    from billing.schemas.payments import preview_sentences

    if (amount is None) == (plan is None):
        raise typer.BadParameter("give --amount-usd or --plan, one of the two", param_hint="--plan")
    if plan is not None:
        preview = await client.preview_plan(plan)
        if preview.how != "buy":
            return await change_plan(client, plan, yes=yes)
        confirm(preview_sentences(preview), yes=yes)
    page = await client.checkout(
        save_method=save_method,
        return_url=return_url,
        idempotency_key=idempotency_key,
        **given(amount_usd=amount, plan=plan),
    )
    return _shown_page(page)


async def change_plan(
    client: "BillingCalls",
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="As `billing plans` lists it.", show_default=False)],
    yes: Yes = False,
) -> Shown:
    """Change the plan. To a dearer one at once, to a cheaper one with the next period; a free one ends it. Shows
    what is charged and by which means, and asks."""
    from billing.schemas.payments import preview_sentences

    preview = await client.preview_plan(plan)
    if preview.how not in ("buy", "nothing"):  # the first is refused, the second changes nothing
        confirm(preview_sentences(preview), yes=yes)
    known = {each.id for each in (await client.invoices(limit=MOST_NEW)).data}
    changed = await client.change_subscription(plan=plan)
    made = await _new_invoices(client, known) if preview.how == "now" else []
    rows = [("plan", changed.plan or "-"), *_subscription(changed)]
    rows += [("charged", _charged(each)) for each in made] or [("charged", _nothing_charged(preview))]
    data = {**changed.received, "invoices": [each.received for each in made]}
    return Shown(data, (Table((), rows),))


async def _new_invoices(client: "BillingCalls", known: Collection[str]) -> "list[InvoiceShape]":
    """Return the bills that a change has made; the payment provider may tell of them a moment later."""
    import asyncio

    for pause_s in (*INVOICE_PAUSES_S, None):
        found = (await client.invoices(limit=MOST_NEW)).data
        made = [each for each in found if each.id not in known]
        if made or pause_s is None:
            return made
        await asyncio.sleep(pause_s)
    return []


def _charged(invoice: "InvoiceShape") -> str:
    return f"{invoice.total_usd} {invoice.currency}: invoice {invoice.number or invoice.id}, {invoice.status}"


def _nothing_charged(preview: "PlanPreviewShape") -> str:
    if preview.how == "now":
        return "the bill is not there yet: metergate billing invoices"
    return "nothing today"


async def redeem(
    client: "BillingCalls", code: Annotated[str, typer.Argument(help="The coupon's code.", show_default=False)]
) -> Shown:
    """Take the credit of a coupon, once for the account."""
    done = await client.redeem_coupon(code=code)
    lasts = "" if done.expires_at is None else f", until {done.expires_at}"
    return Shown(done.received, (f"{done.amount_usd} USD of {done.name}{lasts}: the balance is {done.balance_usd}.",))


async def alert(
    client: "BillingCalls",
    low_balance_usd: Annotated[
        str | None, typer.Option("--low-balance-usd", metavar="USD", help="Alert when available credit falls below it.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Go back to the operator's default.")] = False,
) -> Shown:
    """Show or set what balance counts as low. Below it, an alert is sent."""
    if default and low_balance_usd is not None:
        raise typer.BadParameter("give --low-balance-usd or --default, not both", param_hint="--default")
    is_change = default or low_balance_usd is not None
    found: AlertShape = await (client.set_alert(low_balance_usd=low_balance_usd) if is_change else client.alert())
    whose = " (the default)" if found.is_default else ""
    return Shown(found.received, (f"An alert is sent when less than {found.low_balance_usd} USD is left{whose}.",))


def _shown_page(page: "PageShape", _: object = None) -> Shown:
    if page.url is None:
        return Shown(page.received, ("There is no page to open: see `metergate billing status`.",))
    order, notes = page.order, ["Open it in a browser. Then: metergate billing status"]
    if order is not None:
        what = "of credit" if order.plan is None else f"a month, for the plan {order.plan}"
        notes.insert(0, f"{order.amount_usd} USD {what}, as the order {order.id}.")
    return Shown(page.received, (page.url,), tuple(notes))


def _account(found: "StatusShape") -> list[tuple[str, str]]:
    return [
        ("account", found.account_id),
        ("organization", cell(found.organization)),
        ("state", found.state.replace("_", " ")),
        ("plan", f"{found.plan.name} ({found.plan.id}), {found.plan.price_usd} USD a month"),
        ("balance USD", found.balance_usd),
        ("available USD", found.available_usd),
    ]


def _month(month: "BillingSummaryShape") -> list[tuple[str, str]]:
    rows = [("spent this month USD", month.spent_usd), ("forecast USD", month.forecast_usd)]
    rows.append(("included left USD", f"{month.included_left_usd} of {month.included_usd}"))
    if month.budget is not None:
        rows.append(("budget left USD", f"{month.budget.left_usd} of {month.budget.limit_usd}"))
    return rows


def _subscription(found: "SubscriptionShape | None") -> list[tuple[str, str]]:
    if found is None:
        return []
    rows = (
        ("subscription", f"{found.id}, {found.status}"),
        ("period ends", found.period_end),
        ("subscription ends", found.ends_at),
        ("next plan", found.next_plan),
        ("to be paid until", found.grace_until),
    )
    return [(name, text) for name, text in rows if text is not None]


def _next(found: "StatusShape") -> list[str]:
    """Return what to do: the server's guidance, where the plan above is bought, the next command."""
    lines = [] if found.guidance is None else [found.guidance]
    upgrade = found.upgrade
    if found.state == "quota_exhausted" and upgrade is not None and upgrade.url is not None:
        lines.append(f"Upgrade: {upgrade.name}, {upgrade.price_usd} USD a month: {upgrade.url}")
    if found.next is not None:
        lines.append(f"Run: {found.next}")
    return lines


def _is_nothing(amount: str) -> bool:
    return amount.startswith("-") or not amount.strip("0.")


Usd = typer.Option(metavar="USD", help="Else as it is.")


def _add_auto_recharge(billing: typer.Typer, find: FindSession) -> None:
    recharge = group("The saved payment method is charged when credit runs low.")
    show = command_of(
        CreditOperations.auto_recharge,
        "Show when the saved payment method is charged. With the outcome.",
        _shown_recharge,
    )
    add_person_calls(recharge, find, show=show, set=set_auto_recharge, off=end_auto_recharge)
    billing.add_typer(recharge, name="auto-recharge")


async def set_auto_recharge(
    client: "BillingCalls",
    threshold_usd: Annotated[str | None, Usd] = None,
    amount_usd: Annotated[str | None, Usd] = None,
    monthly_cap_usd: Annotated[str | None, Usd] = None,
    yes: Yes = False,
) -> Shown:
    """Charge the saved payment method when credit runs low. It is charged --amount-usd when what may be spent falls
    below --threshold-usd, in a month no more than --monthly-cap-usd. What stopped it before is forgotten.
    Shows the amounts, and asks."""
    asked = given(threshold_usd=threshold_usd, amount_usd=amount_usd, monthly_cap_usd=monthly_cap_usd)
    wish = _wish(await client.auto_recharge(), asked, enabled=True)
    when = f"when less than {wish['threshold_usd']} USD may be spent, at most {wish['monthly_cap_usd']} USD a month"
    confirm((f"Your saved payment method is charged {wish['amount_usd']} USD {when}.",), yes=yes)
    return _shown_recharge(await client.set_auto_recharge(**wish))


async def end_auto_recharge(client: "BillingCalls") -> Shown:
    """Stop charging the saved payment method."""
    found = await client.auto_recharge()
    if not found.amount_usd:
        return _shown_recharge(found)
    return _shown_recharge(await client.set_auto_recharge(**_wish(found, {}, enabled=False)))


def _wish(found: "RechargeShape", asked: dict[str, str], *, enabled: bool) -> dict[str, Any]:
    """Return what is to be asked of auto-recharge; amounts that are not given stay."""
    names = ("threshold_usd", "amount_usd", "monthly_cap_usd")
    wish = {name: asked.get(name, getattr(found, name)) for name in names}
    if None in wish.values():
        raise CommandFailed("Give --threshold-usd, --amount-usd and --monthly-cap-usd: none is set yet.", USAGE)
    return {"enabled": enabled, **wish}


def _shown_recharge(found: "RechargeShape", _: object = None) -> Shown:
    rows: list[tuple[str, str | None]] = [("auto-recharge", found.state)]
    if found.amount_usd is not None:
        rows += [("below USD", cell(found.threshold_usd)), ("charged USD", found.amount_usd)]
        rows.append(("a month at most USD", cell(found.monthly_cap_usd)))
    rows += [("why", found.reason), ("act at", found.url), ("next try", found.next_attempt_at)]
    return details(found, [(name, text) for name, text in rows if text is not None])


def _add_budgets(billing: typer.Typer, find: FindSession) -> None:
    budget = group("Budgets: they alert, and refuse nothing.")
    terms = {
        "period": option("PERIOD", "day, week, month or total."),
        "thresholds": option("PERCENT", "When to alert, in percent, such as 80; several times.", "--threshold"),
        "notify": option("ADDRESS", "A member to mail, instead of the owners; several times.", "--notify"),
    }
    add_person_calls(
        budget,
        find,
        list=command_of(
            BudgetOperations.budgets,
            "List budgets, newest first. With what was spent of each and a forecast.",
            columns(*_BUDGET, folded=("period", "ends")),
        ),
        create=command_of(
            BudgetOperations.create_budget,
            "Create a budget. It alerts when a threshold is reached; only a quota refuses.",
            _shown_budget,
            {
                "amount_usd": argument("The sum, such as 100.00."),
                "period": terms["period"],
                "key": option("KEY", "Of one key; else of the account."),
                "user": option("USER_ID", "Of one user's keys."),
                "tag": option("NAME=VALUE", "Of requests with this tag."),
                "thresholds": terms["thresholds"],
                "notify": terms["notify"],
            },
            changed=_of_subject,
        ),
        update=command_of(
            BudgetOperations.update_budget,
            "Change a budget. What is not given stays. Thresholds that are reached by then alert again.",
            _shown_budget,
            {
                "amount_usd": option("USD", "The sum."),
                **terms,
            },
        ),
        delete=command_of(BudgetOperations.delete_budget, "Remove a budget.", ended("deleted", "is deleted.")),
    )
    billing.add_typer(budget, name="budget")


def _of_subject(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a budget, with what it is of."""
    of = [name for name in ("key", "user", "tag") if name in asked]
    if len(of) > 1:
        raise typer.BadParameter("give one of --key, --user and --tag", param_hint="--key")
    for name in of:
        asked["subject"] = name
        if name != "tag":
            asked["subject_id"] = asked.pop(name)
    return asked
