"""Whom a payment provider knows as our accounts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from billing.database.connection import affected, queries
from billing.payments.keys import TRIES
from billing.payments.port import NewCustomer, PaymentError, PaymentProviderUnavailable

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.payments.port import PaymentProvider

logger = logging.getLogger(__name__)
_query = queries("billing.payments")


class Customers:
    """Whom a provider knows as our accounts: one customer for each, however many ask at once.

    The idempotency key is the account and a generation, stored before the provider is asked, so that whoever asks at
    the same time gets the same customer. One that the provider has lost is made anew, in the next generation, and so is
    one whose making the provider would fail again under the same key. Methods raise `DatabaseError` and
    `port.PaymentError`."""

    def __init__(self, database: Database, provider: PaymentProvider) -> None:
        self._database, self._provider = database, provider

    async def ensure(self, account_id: str, name: str) -> str:
        """Return the account's customer; one is created where there is none."""
        named = (account_id, self._provider.name)
        await self._database.execute(_query("customers_ask"), *named)
        for _ in range(TRIES):
            row = await self._database.row(_query("customers_get"), *named)
            if row is None:
                raise LookupError("the row was written just now, and none are deleted")
            if row["customer_id"] is not None:
                return str(row["customer_id"])
            generation, asked = row["generation"], NewCustomer(account_id, name)
            try:
                made = await self._provider.ensure_customer(asked, f"customer:{account_id}:{generation}")
            except PaymentError as error:
                if not error.key_is_spent:
                    raise
                logger.warning("the customer of %s is asked for under another key: %s", account_id, error)
                await self._database.execute(_query("customers_again"), *named, generation)
                continue
            # Else another call has stored a customer, or has begun the next generation: the row says which.
            if affected(await self._database.execute(_query("customers_made"), *named, generation, made)):
                return made
        raise PaymentProviderUnavailable("The payment provider makes no customer now: try again in a moment.")

    async def find(self, account_id: str) -> str | None:
        """Return the account's customer; None: it has none yet."""
        row = await self._database.row(_query("customers_get"), account_id, self._provider.name)
        return None if row is None else row["customer_id"]

    async def method(self, account_id: str) -> str | None:
        """Return the payment method that is saved, such as `visa 4242`; None: none is."""
        row = await self._database.row(_query("customers_get"), account_id, self._provider.name)
        return None if row is None else row["method"]

    async def gone(self, customer_id: str) -> None:
        """Note that the provider does not know a customer any more: the next `ensure` makes another one."""
        await self._database.execute(_query("customers_gone"), self._provider.name, customer_id)
