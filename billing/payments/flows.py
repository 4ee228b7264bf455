"""Hosted flows: from what somebody asks to buy to the page where it is paid, and the page where billing is managed.

An order is a row before the provider hears of it, and each call has the order's id and the step as its key: whatever
breaks off between two steps goes on with the same call.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from billing.database.connection import queries
from billing.money import MAX_NANO, NANO_PER_CENT, format_cents
from billing.payments.events import TRIES, call_once
from billing.payments.orders import NewOrder, Order, OrderConflict, OrderRefused
from billing.payments.port import CustomerGone, ObjectRef, PaymentError, PaymentRefused, Purchase, ReturnUrls, origin_of
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.accounts.accounts import Account, Accounts
    from billing.database.connection import Database
    from billing.payments.events import Customers
    from billing.payments.orders import Orders
    from billing.payments.port import HostedPage, Payment, PaymentProvider
    from billing.payments.subscriptions import SubscriptionChanges
    from billing.plans import Plan, Plans

T = TypeVar("T")
logger = logging.getLogger(__name__)

_query = queries("billing.payments")
# Abandoned pages that one order closes.
CLOSED_AT_ONCE: Final = 10
EXPIRY: Final = "orders_expiry"
EXPIRY_EVERY_S: Final = 60.0
DESCRIPTIONS: Final = {"credit": "Prepaid credit", "recharge": "Prepaid credit (automatic)"}


@dataclass(frozen=True, slots=True)
class FlowRules:
    """What may be bought at once, in cents, what a setup asks for unless it is told, and the origins that payers may be
    sent to; `home` is where they are sent where nothing else is asked for. Of an account's pages the `open_pages`
    newest can be paid at; older ones are closed."""

    min_cents: int
    max_cents: int
    setup_cents: int
    origins: frozenset[str]
    home: str
    open_pages: int = 20

    def __post_init__(self) -> None:
        if self.open_pages < 1:
            raise ValueError("open_pages must be above zero")
        if not 0 < self.min_cents <= self.setup_cents <= self.max_cents <= MAX_NANO // NANO_PER_CENT:
            raise ValueError("amounts rise from min over setup to max, above zero and within the bound of all money")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks to buy: an amount in nano-USD or a plan; where to go afterwards, None: home; and the
    idempotency key."""

    account_id: str
    idempotency_key: str
    amount_nano: int | None = None
    plan: str | None = None
    success_url: str | None = None
    cancel_url: str | None = None
    save_method: bool = False


@dataclass(kw_only=True)
class Flows:
    """Opens pages and takes payments. `refresh` applies an object's present state. Methods raise `OrderError`,
    `port.PaymentError`, `AccountNotFound` and `DatabaseError`."""

    database: Database
    provider: PaymentProvider
    orders: Orders
    customers: Customers
    accounts: Accounts
    plans: Plans
    rules: FlowRules
    refresh: Callable[[ObjectRef], Awaitable[object]]
    changes: SubscriptionChanges
    new_id: Callable[[], str]

    async def checkout(self, wanted: Wanted) -> Order:
        """Open the page at which a new order is paid, once per idempotency key: the same again gets the same page."""
        account = await self.accounts.get(wanted.account_id)
        asked = self._asked(account, wanted)
        if await self.orders.of_key(account.id, asked.idempotency_key) is not None:
            return await self._opened(account, await self.orders.create(asked))
        await self._check_new(account, asked)
        opened = await self._opened(account, await self.orders.create(asked))
        await self._close_abandoned(account.id)
        return opened

    async def save_method(self, account_id: str, return_url: str | None) -> HostedPage:
        """Open a page at which a payment method is saved without paying."""
        urls = self.urls(return_url, return_url)
        key = f"setup:{account_id}:{self.new_id()}"
        account = await self.accounts.get(account_id)
        return await self._with_customer(account, lambda customer_id: self.provider.setup(customer_id, urls, key))

    async def portal(self, account_id: str, return_url: str | None) -> HostedPage:
        """Open the page at which methods, invoices and subscriptions are managed."""
        url, key = self.urls(return_url, return_url).success_url, f"portal:{account_id}:{self.new_id()}"
        account = await self.accounts.get(account_id)
        return await self._with_customer(account, lambda customer_id: self.provider.portal(customer_id, url, key))

    async def charge(self, order: Order) -> Payment:
        """Charge the saved payment method for an order, without the payer, and apply what came of it. The same order
        is charged once, however often this is called."""
        account = await self.accounts.get(order.account_id)
        customer_id = await self.customers.ensure(account.id, account.name)
        purchase = self._purchase(order, customer_id)
        charge = partial(self.provider.charge, purchase)
        payment = await call_once(self.database, f"{order.id}:charge", charge)
        await self.refresh(ObjectRef("payment", payment.id))
        return payment

    async def find(self, order: Order) -> Payment | None:
        """Return the payment that was made for an order, however long ago, and apply it; None: there is none."""
        customer_id = await self.customers.find(order.account_id)
        payment = await self.provider.find_payment(order.id, customer_id)
        if payment is not None:
            await self.refresh(ObjectRef("payment", payment.id))
        return payment

    async def give_up(self, payment: Payment) -> Payment | None:
        """Cancel a payment that stays open, and apply and return what it is then; None: there is none."""
        try:
            await call_once(self.database, f"{payment.id}:cancel", partial(self.provider.cancel_payment, payment.id))
        except PaymentRefused as refused:
            if refused.kind == "unavailable":
                raise  # else it has ended meanwhile
        ref = ObjectRef("payment", payment.id)
        await self.refresh(ref)
        return cast("Payment | None", await self.provider.fetch(ref))

    def urls(self, success_url: str | None, cancel_url: str | None) -> ReturnUrls:
        """Return where a payer goes afterwards; one address for both was given as `return_url`. Raises `OrderRefused`
        for an origin that is not the operator's."""
        field = "return_url" if success_url == cancel_url else "success_url"
        success = self._checked(success_url, field) or self.rules.home
        return ReturnUrls(success, self._checked(cancel_url, "cancel_url") or success)

    def _checked(self, url: str | None, field: str) -> str | None:
        if url is not None and origin_of(url) not in self.rules.origins:
            allowed = ", ".join(sorted(self.rules.origins)) or "none"
            raise OrderRefused(f"{field} must be an address on an allowed origin: {allowed}.", field)
        return url

    def _asked(self, account: Account, wanted: Wanted) -> NewOrder:
        """Return the order that is asked for. Raises `OrderRefused` for what nobody can buy."""
        urls = self.urls(wanted.success_url, wanted.cancel_url)
        key, save = wanted.idempotency_key, wanted.save_method
        if wanted.plan is not None:
            return NewOrder(account.id, "plan", self._plan_cents(wanted.plan), key, wanted.plan, urls, save)
        nano = self.rules.setup_cents * NANO_PER_CENT if wanted.amount_nano is None else wanted.amount_nano
        cents, rest = divmod(nano, NANO_PER_CENT)
        low, high = (format_cents(each) for each in (self.rules.min_cents, self.rules.max_cents))
        if rest or not self.rules.min_cents <= cents <= self.rules.max_cents:
            raise OrderRefused(f"amount_usd must be {low} to {high} USD in whole cents.", "amount_usd")
        return NewOrder(account.id, "credit", cents, key, None, urls, save)

    async def _check_new(self, account: Account, asked: NewOrder) -> None:
        """Raise `OrderRefused` for what this account can't buy now; an order that there is already is answered again
        all the same."""
        if account.status == "closed":
            raise OrderRefused("The account is closed: it can't buy anything.")
        if asked.kind == "credit" and account.balance_nano + asked.amount_cents * NANO_PER_CENT > MAX_NANO:
            raise OrderRefused("The balance would leave its bound by this amount: buy less.", "amount_usd")
        if asked.kind == "plan" and await self.changes.current(account.id) is not None:
            raise OrderConflict(
                "The account has a subscription: change it in the console, or by `metergate billing change-plan PLAN`."
            )

    def _plan_cents(self, plan_id: str) -> int:
        plan = self.plans.get(plan_id)
        if plan is None or not plan.price_nano:
            known = ", ".join(sorted(each.id for each in self.plans.values() if each.price_nano)) or "none"
            raise OrderRefused(f"plan must be one that can be bought: {known}.", "plan")
        cents, rest = divmod(plan.price_nano, NANO_PER_CENT)
        if rest or (self.provider.name == "stripe" and plan.stripe_price is None):
            raise OrderRefused(f"The plan {plan_id} can't be bought here: ask whoever runs this gateway.", "plan")
        return cents

    async def _opened(self, account: Account, order: Order) -> Order:
        """Open an order's page unless it is open. Other pages of plans are closed each time: a call that was broken off
        may have left them."""
        if order.url is None and order.status == "open" and order.urls is not None:
            order = await self._open(account, order, order.urls)
        if order.kind == "plan" and order.checkout_id is not None and order.status in ("open", "failed"):
            await self._close_others(order, ObjectRef("checkout", order.checkout_id))
        return order

    async def _open(self, account: Account, order: Order, urls: ReturnUrls) -> Order:
        """Open an order's page. A customer that the provider has lost is made anew, once."""

        async def opened(customer_id: str) -> Order:
            checkout = partial(self.provider.checkout, self._purchase(order, customer_id), urls)
            # Of a page that a failed call has opened nobody knows the address.
            key = f"{order.id}:checkout:{customer_id}"
            page = await call_once(self.database, key, checkout, tries=TRIES)
            return await self.orders.opened(order.id, customer_id, page)

        return await self._with_customer(account, opened)

    async def _close_others(self, order: Order, page: ObjectRef) -> None:
        """Close the account's other pages of plans, so that nobody pays for two: of orders that come at the same time
        the newest stays, and none where one of them was paid. Raises `OrderConflict` where it is not this order's."""
        for each in await self.orders.replaced(order.account_id):
            await self._close(each)
            if each == page:
                raise OrderConflict("Another order of a plan came at the same time: pay that one.")
        if await self.changes.current(order.account_id) is not None:
            await self._close(page)
            raise OrderConflict("A subscription was paid for just now: `metergate billing status` shows it.")

    async def _close_abandoned(self, account_id: str) -> None:
        """Close the account's oldest pages, so that no more than `open_pages` can be paid at. A provider that is away
        is asked again at the next order."""
        try:
            for page in await self.orders.abandoned(account_id, self.rules.open_pages, CLOSED_AT_ONCE):
                await self._close(page)
        except PaymentError as error:
            logger.info("abandoned pages of %s stay open: %s", account_id, error)

    async def expire(self) -> None:
        """Look at orders whose page has ended and of which no event has come, and end those that are over."""
        for page in await self.orders.overdue(CLOSED_AT_ONCE):
            await self.refresh(page)

    def work(self, owner: str) -> Periodic:
        """Return what does that again and again, in one gateway of all."""
        lease = Lease(self.database, EXPIRY, owner)
        return Periodic(name=EXPIRY, every_s=EXPIRY_EVERY_S, round=self.expire, lease=lease)

    async def _close(self, page: ObjectRef) -> None:
        await self.provider.expire_checkout(page.id, f"{page.id}:replaced:{self.new_id()}")
        await self.refresh(page)

    async def _with_customer(self, account: Account, ask: Callable[[str], Awaitable[T]]) -> T:
        customer_id = await self.customers.ensure(account.id, account.name)
        try:
            return await ask(customer_id)
        except CustomerGone:
            await self.customers.gone(customer_id)
            return await ask(await self.customers.ensure(account.id, account.name))

    def _purchase(self, order: Order, customer_id: str) -> Purchase:
        plan = self.plans.get(order.plan or "")
        return Purchase(
            order.id,
            order.account_id,
            customer_id,
            order.kind,
            order.amount_cents,
            description=DESCRIPTIONS.get(order.kind) or f"Plan {order.plan if plan is None else plan.name}, a month",
            price_id=None if order.plan is None else price_id_of(plan, order.plan),
            save_method=order.save_method,
        )


def price_id_of(plan: Plan | None, plan_id: str) -> str:
    """Return the provider's price of a plan: the one that the plan names, else the plan's own id."""
    return plan_id if plan is None or plan.stripe_price is None else plan.stripe_price
