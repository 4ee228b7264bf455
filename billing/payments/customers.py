"""Customers: whom a payment provider knows as an account, one for each however many ask at once.

The idempotency key is the account and a generation, stored before the provider is asked: whoever asks at the same time
gets the same customer. A customer that the provider has lost is made anew, in the next generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.database.connection import queries
from billing.payments.port import NewCustomer

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.payments.port import PaymentProvider

_query = queries("billing.payments")


class Customers:
    """Makes and finds customers of one provider. Methods raise `DatabaseError` and `port.PaymentError`."""

    def __init__(self, database: Database, provider: PaymentProvider) -> None:
        self._database, self._provider = database, provider

    async def ensure(self, account_id: str, name: str) -> str:
        """Return the account's customer; one is created where there is none."""
        named = (account_id, self._provider.name)
        await self._database.execute(_query("customers_ask"), *named)
        row = await self._database.row(_query("customers_get"), *named)
        if row is None:
            raise LookupError("the row was written just now, and none are deleted")
        if row["customer_id"] is not None:
            return str(row["customer_id"])
        key = f"customer:{account_id}:{row['generation']}"
        made = await self._provider.ensure_customer(NewCustomer(account_id, name), key)
        await self._database.execute(_query("customers_made"), *named, row["generation"], made)
        return made

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
