"""Customers at a payment provider, and idempotency keys of calls that a provider is asked to make again.

A provider answers a key for a day as it first did, a failure of its own included (`PaymentError.key_is_spent`), and
has forgotten it afterwards (https://docs.stripe.com/api/idempotent_requests). So the next call takes a key of the next
generation, which is stored first, so that all who ask at a time take the same one; and whoever moves money checks
first whether an earlier call has moved it, however long ago that was.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from billing.database.connection import affected, queries
from billing.payments.port import NewCustomer, PaymentError, PaymentProviderUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.database.connection import Database
    from billing.payments.port import PaymentProvider

logger = logging.getLogger(__name__)
_query = queries("billing.payments")

T = TypeVar("T")
# Idempotency keys that one call makes a customer, or opens a page, under.
TRIES: Final = 3
# Since the last call under any generation of a key: by then the provider has long forgotten each of them, and the first
# one is as good as new. What calls that move money have moved before is looked for otherwise.
KEYS_KEPT: Final = timedelta(days=30)
# Characters of an idempotency key that Stripe takes (https://docs.stripe.com/api/idempotent_requests).
MOST_KEY: Final = 255


async def call_once(database: Database, key: str, call: Callable[[str], Awaitable[T]], *, tries: int = 1) -> T:
    """Make a call of a payment provider under the present generation of a key. Where the provider has kept a failure
    for it, the next generation begins: at once, up to `tries` in all, or when the caller is asked again. One try is for
    calls that move money, so that there is time to see what the failed one has done. Raises what the call does, and
    `DatabaseError`."""
    while True:
        generation = await database.value(_query("keys_generation"), key) or 1
        try:
            return await call(_fitting(key if generation == 1 else f"{generation}:{key}"))
        except PaymentError as error:
            if not error.key_is_spent:
                raise
            logger.warning("the payment provider is asked again under another key than %s: %s", key, error)
            await database.execute(_query("keys_spent"), key, generation)
            tries -= 1
            if tries < 1:
                raise


def _fitting(key: str) -> str:
    """Return a key in a provider's bounds: a client's own text is a part of some."""
    return key if len(key) <= MOST_KEY else hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Customers:
    """Whom a provider knows as our accounts: one customer for each, however many ask at once.

    The idempotency key is the account and a generation, stored before the provider is asked, so that whoever asks at
    the same time gets the same customer. One that the provider has lost is made anew, in the next generation, and so is
    one whose making the provider would fail again under the same key. Methods raise `DatabaseError` and
    `port.PaymentError`."""

    database: Database
    provider: PaymentProvider

    async def ensure(self, account_id: str, name: str) -> str:
        """Return the account's customer; one is created where there is none."""
        named = (account_id, self.provider.name)
        await self.database.execute(_query("customers_ask"), *named)
        for _ in range(TRIES):
            row = await self.database.row(_query("customers_get"), *named)
            if row is None:
                raise LookupError("the row was written just now, and none are deleted")
            if row["customer_id"] is not None:
                return str(row["customer_id"])
            generation, asked = row["generation"], NewCustomer(account_id, name)
            try:
                made = await self.provider.ensure_customer(asked, f"customer:{account_id}:{generation}")
            except PaymentError as error:
                if not error.key_is_spent:
                    raise
                logger.warning("the customer of %s is asked for under another key: %s", account_id, error)
                await self.database.execute(_query("customers_again"), *named, generation)
                continue
            # Else another call has stored a customer, or has begun the next generation: the row says which.
            if affected(await self.database.execute(_query("customers_made"), *named, generation, made)):
                return made
        raise PaymentProviderUnavailable("The payment provider makes no customer now: try again in a moment.")

    async def find(self, account_id: str) -> str | None:
        """Return the account's customer; None: it has none yet."""
        row = await self.database.row(_query("customers_get"), account_id, self.provider.name)
        return None if row is None else row["customer_id"]

    async def method(self, account_id: str) -> str | None:
        """Return the payment method that is saved, such as `visa 4242`; None: none is."""
        row = await self.database.row(_query("customers_get"), account_id, self.provider.name)
        return None if row is None else row["method"]

    async def gone(self, customer_id: str) -> None:
        """Note that the provider does not know a customer any more: the next `ensure` makes another one."""
        await self.database.execute(_query("customers_gone"), self.provider.name, customer_id)
