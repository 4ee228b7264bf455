"""Operators: accounts, and one account with all that explains its balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.amounts import usd_text
from billing.api.accounts import (
    create_adjustment,
    create_grant,
    create_refund,
    get_account,
    list_accounts,
    update_account,
)
from billing.api.credit import list_lots
from billing.api.requests import encode_cursor, page_asked
from billing.errors import StoreError
from billing.pages import MAX_LIMIT
from billing.schemas.accounts import AccountPatch, AccountsQuery, NewAdjustment, NewCredit, NewGrant
from billing.schemas.credit import LotsQuery
from billing.schemas.usage import TransactionShape
from billing.web.credit import CHANGES, KINDS
from billing.web.lists import Column, Field, Figure, Form, Listed, detailed, listed
from billing.web.operator_house import SIGNED_IN, Device
from billing.web.operator_usage import SPANS, UNITS, account_usage
from billing.web.pages import NOTICES, Page, View, Visit, Who
from billing.web.render import words

if TYPE_CHECKING:
    from aiohttp import web

    from billing.change_notifier import LiveBalance
    from billing.schemas.accounts import AccountShape

NOTICES["booked"] = "Recorded in the ledger."
STATUSES: Final = ("active", "past_due", "suspended", "closed")
ACCOUNT: Final = "/operator/accounts/{account_id}"
# Transactions and requests that the page of an account has; more are a link away.
LAST: Final = 20
_COLUMNS: Final = (
    Column("Account", "id", "name", "/operator/accounts/{id}"),
    Column("Plan", "plan"),
    Column("Status", "status", "state"),
    Column("Balance", "balance_usd", "money"),
    Column("Credit limit", "credit_limit_usd", "money"),
    Column("Created", "created_at", "time"),
)
_LOTS: Final = (
    Column("Lot", "id", "code"),
    Column("From", "kind"),
    Column("Left", "left_usd", "money"),
    Column("Of", "amount_usd", "money"),
    Column("Priority", "priority", "count"),
    Column("Expires", "expires_at", "time"),
    Column("Created", "created_at", "time"),
)
_TRANSACTIONS: Final = (
    Column("Time", "created_at", "time"),
    Column("Kind", "kind"),
    Column("Amount", "amount_usd", "money"),
    Column("Balance after", "balance_usd", "money"),
    Column("Request", "request_id", "code", "/operator/requests/{request_id}"),
    Column("Note", "note"),
)
_MEMBERS: Final = (
    Column("Person", "user_id", "name", "/operator/people/{user_id}"),
    Column("Name", "name"),
    Column("Role", "role"),
    Column("Since", "created_at", "time"),
)
_SESSIONS: Final = (Column("Person", "user_id", "name", "/operator/people/{user_id}"), *SIGNED_IN)
_ORDERS: Final = (
    Column("Time", "created_at", "time"),
    Column("Order", "id", "code", "/operator/payments/orders/{id}"),
    Column("For", "kind"),
    Column("Amount", "amount_nano", "money"),
    Column("Status", "status", "state"),
)
_WINDOWS: Final = (
    Column("Of", "subject"),
    Column("Window", "window"),
    Column("Metric", "metric"),
    Column("Limit", "limit", "quantity"),
    Column("Used", "used", "quantity"),
    Column("Held", "held", "quantity"),
    Column("Left", "remaining", "quantity"),
    Column("Resets", "resets_at", "time"),
)
_FACTS: Final = (
    Column("Account", "id", "code"),
    Column("Plan", "plan"),
    Column("Status", "status", "state"),
    Column("Credit limit", "credit_limit_usd", "money"),
    Column("Past due since", "past_due_since", "time"),
    Column("Time zone", "tz"),
    Column("Created", "created_at", "time"),
)


async def accounts(visit: Visit) -> View:
    """Show accounts, newest first."""
    found = await list_accounts(visit.call, visit.query(AccountsQuery))
    states = (("", "any"), *((each, each.replace("_", " ")) for each in STATUSES))
    filters = Field("search", "Name or id", "search"), Field("status", "Status", options=states)
    table = Listed("Newest first", _COLUMNS, found.data, found.next_cursor, empty="No account matches.")
    tabs = ("Accounts", "/operator/accounts"), ("Create an account", "/operator/accounts/new")
    return listed("Accounts", table, filters=filters, tabs=tabs)


async def account(visit: Visit) -> View:
    """Show one account: what its balance is made of, what it used, what came and went, and what may be changed."""
    services, call = visit.services, visit.call
    shown = await get_account(call)
    row = await services.accounts.get(shown.id)
    live = await services.live_balance(row)
    lots = await list_lots(call, LotsQuery(limit=LAST))
    changes = await services.reports.transactions(shown.id, LAST)
    windows = await services.windows(shown.id)
    payments = services.payments
    orders = () if payments is None else (await payments.orders.page(LAST, account_id=shown.id)).items
    here, refused = f"/operator/accounts/{shown.id}", await _refused_today(visit, shown.id)
    view = detailed(
        shown.name,
        shown,
        _FACTS,
        Listed("Credit, in the order of its use", _LOTS, lots.data, empty="No credit is left."),
        Listed("Quotas (windows in UTC)", _WINDOWS, windows, empty="It has no quotas."),
        *await _people(visit, shown.id),
        Listed("Recent orders", _ORDERS, orders, empty="No orders yet."),
        Listed(
            "Recent changes",
            _TRANSACTIONS,
            [TransactionShape.of_transaction(each, with_cost=True) for each in changes.items],
        ),
        intro=_explained(shown, live.balance_nano, live.held_nano) + refused.sentence,
        figures=_figures(shown.id, live, row.credit_limit_nano, refused),
        forms=_forms(visit, shown, here),
    )
    # A form that is refused is shown at its own address, where nothing is read.
    usage = await account_usage(visit, shown.id) if visit.page.method == "GET" else None
    return View("operator_account.html", {**view.values, "usage": usage, "spans": SPANS, "units": UNITS})


async def _people(visit: Visit, account_id: str) -> tuple[Listed, Listed]:
    """Return the members of an account's organization, and where they are signed in."""
    services = visit.services
    organization = await services.organizations.of_account(account_id)
    members = () if organization is None else (await services.members.page(organization.id, LAST)).items
    sessions = [] if organization is None else await services.sessions.of_organization(organization.id, LAST)
    devices = [Device(each, each.user_id) for each in sessions]
    return (
        Listed("Members", _MEMBERS, members, empty="It belongs to no organization."),
        Listed("Where members are signed in", _SESSIONS, devices, empty="Nobody is signed in."),
    )


def _figures(account_id: str, live: LiveBalance, credit_limit_nano: int, refused: _Refused) -> tuple[Figure, ...]:
    free_nano = live.balance_nano - live.held_nano
    return (
        Figure("Balance", live.balance_nano, "money", "holds included"),
        Figure("Held", live.held_nano, "money", "by requests that run now"),
        Figure("Available", free_nano + credit_limit_nano, "money", "with its credit limit"),
        Figure("Timeline", "all changes", path=f"/operator/accounts/{account_id}/transactions"),
        Figure("Refused today", refused.text, path=f"/operator/requests/refused?account_id={account_id}"),
        Figure("Payments", "all", path=f"/operator/payments?account_id={account_id}"),
        Figure("Requests", "all", path=f"/operator/requests?account_id={account_id}"),
        Figure("Keys", "all", path=f"/operator/keys?account_id={account_id}"),
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    """How many of an account's requests were refused today, of those that are kept."""

    text: str
    sentence: str = ""


async def _refused_today(visit: Visit, account_id: str) -> _Refused:
    midnight_ms = int(visit.now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1000
    try:
        found = await visit.services.refused.newest(MAX_LIMIT, account_id=account_id)
    except StoreError:
        return _Refused("")
    today = [each for each in found if each.at_ms >= midnight_ms]
    if not today:
        return _Refused("0")
    # Of each key the last ones are kept.
    some = max(Counter(each.key_id for each in today).values()) >= visit.services.refused.per_key
    last, count = words(today[0].code), f"{len(today):,}"
    sentence = f" {'At least ' if some else ''}{count} of its requests were refused today, the last as {last}."
    return _Refused(f"{count}{' or more' if some else ''}", sentence)


def _explained(account: AccountShape, balance_nano: int, held_nano: int) -> str:
    """Return in a sentence how the account stands, why, and what comes next."""
    if account.status == "suspended":
        return "Suspended: every request is refused until it is active again. The audit log says who did that, and why."
    if account.status == "closed":
        return "Closed: nothing is spent any more. What it had can be read."
    if account.status == "past_due":
        return (
            "A payment of its plan failed: unless that is paid, it falls back to the free plan when the grace is over."
        )
    if balance_nano < 0:
        owed = usd_text(-balance_nano)
        return f"{owed} below zero: used on credit, or taken back by a refund or dispute. New credit pays that first."
    if balance_nano <= held_nano:
        return "No credit is available: requests are refused until some is added, or running ones end."
    return "Active: requests are admitted."


_SEEING: Final = "The pages as a viewer of its organization has them, read-only. The audit log keeps it."


def _forms(visit: Visit, account: AccountShape, here: str) -> tuple[Form, ...]:
    amount = Field("amount_usd", "Amount (USD)", hint="a decimal such as 12.50", required=True)
    key = {"idempotency_key": visit.typed("idempotency_key") or visit.services.new_id()}
    note = Field("note", "Note", hint="kept with the transfer; the customer sees it")
    status = tuple((each, each.replace("_", " ")) for each in STATUSES)
    against = (("write_off", "what is written off"), ("revenue", "revenue"))
    return (
        Form("See as customer", f"{here}/see", "See it", hint=_SEEING),
        Form("Grant credit", f"{here}/grant", "Grant", (amount, note), hidden=key),
        Form("Refund a charge", f"{here}/refund", "Refund", (amount, note), hidden=key),
        Form(
            "Adjust the balance",
            f"{here}/adjust",
            "Adjust",
            (
                Field("amount_usd", "Change (USD)", hint="below zero lowers the balance", required=True),
                Field("reason", "Reason", required=True),
                Field("against", "Against", options=against),
            ),
            hidden=key,
        ),
        Form(
            "Change the account",
            f"{here}/change",
            "Change",
            (
                Field("name", "Name", value=account.name),
                Field("plan", "Plan", value=account.plan, options=_plans(visit, account.plan)),
                Field("status", "Status", value=account.status, options=status),
                Field("credit_limit_usd", "Credit limit (USD)", value=account.credit_limit_usd),
                Field("reason", "Reason", hint="the audit log keeps it"),
            ),
            "Only what you change is changed. It holds on every gateway within a second.",
        ),
    )


def _plans(visit: Visit, own: str) -> tuple[tuple[str, str], ...]:
    known = {plan_id: visit.services.plans[plan_id].name for plan_id in visit.services.plans}
    return tuple({own: own, **known}.items())


async def grant(visit: Visit) -> web.Response:
    """Give credit."""
    await create_grant(visit.call, visit.body(NewCredit, **_given(visit, "amount_usd", "idempotency_key", "note")))
    return _booked(visit)


async def refund(visit: Visit) -> web.Response:
    """Refund a charge."""
    await create_refund(visit.call, visit.body(NewGrant, **_given(visit, "amount_usd", "idempotency_key", "note")))
    return _booked(visit)


async def adjust(visit: Visit) -> web.Response:
    """Change a balance up or down."""
    given = _given(visit, "amount_usd", "idempotency_key", "reason", "against")
    await create_adjustment(visit.call, visit.body(NewAdjustment, **given))
    return _booked(visit)


def _given(visit: Visit, *names: str) -> dict[str, str | None]:
    return {name: visit.field(name) for name in names}


def _booked(visit: Visit) -> web.Response:
    return visit.see(f"/operator/accounts/{visit.call.id('account_id')}", "booked")


async def change(visit: Visit) -> web.Response:
    """Change what of an account was changed in the form."""
    before = await get_account(visit.call)
    given = _given(visit, "name", "plan", "status", "credit_limit_usd")
    changed = {name: value for name, value in given.items() if value != getattr(before, name)}
    await update_account(visit.call, visit.body(AccountPatch, **changed, reason=visit.field("reason")))
    return visit.see(f"/operator/accounts/{before.id}", "saved")


async def timeline(visit: Visit) -> View:
    """Show all changes of a balance, with what it was after each."""
    shown = await get_account(visit.call)
    limit, after = page_asked(visit.query(LotsQuery))
    kind, reports = visit.request.query.get("kind", ""), visit.services.reports
    if kind:
        found = await reports.changes(shown.id, limit, after, None if kind == CHANGES else [kind])
    else:
        found = await reports.transactions(shown.id, limit, after)
    rows = [TransactionShape.of_transaction(each, with_cost=True) for each in found.items]
    table = Listed(
        "Newest first", _TRANSACTIONS, rows, encode_cursor(found.next_after), empty="Nothing has happened yet."
    )
    kinds = Field("kind", "Kind", options=(("", "all"), *KINDS[:-1]))
    return listed(f"Timeline of {shown.name}", table, intro=f"Account {shown.id}.", filters=(kinds,))


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/accounts", accounts, Who.operator),
    Page("GET", ACCOUNT, account, Who.operator),
    Page("POST", f"{ACCOUNT}/grant", grant, Who.operator, again=account),
    Page("POST", f"{ACCOUNT}/refund", refund, Who.operator, again=account),
    Page("POST", f"{ACCOUNT}/adjust", adjust, Who.operator, again=account),
    Page("POST", f"{ACCOUNT}/change", change, Who.operator, again=account),
    Page("GET", f"{ACCOUNT}/transactions", timeline, Who.operator),
)
