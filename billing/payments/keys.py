"""Idempotency keys of calls that a payment provider is asked to make again.

A provider answers a key for a day as it first did, a failure of its own included (`PaymentError.key_is_spent`), and
has forgotten it afterwards (https://docs.stripe.com/api/idempotent_requests). So the next call takes a key of the next
generation, which is stored first, so that all who ask at a time take the same one; and whoever moves money looks
first whether an earlier call has moved it, however long ago that was.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from billing.database.connection import queries
from billing.payments.port import PaymentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from billing.database.connection import Database

T = TypeVar("T")
# Idempotency keys that one call makes a customer, or opens a page, under.
TRIES: Final = 3
# Since the last call under any generation of a key: by then the provider has long forgotten each of them, and the first
# one is as good as new. What calls that move money have moved before is looked for otherwise.
KEYS_KEPT: Final = timedelta(days=30)
# Characters of an idempotency key that Stripe takes (https://docs.stripe.com/api/idempotent_requests).
MOST_KEY: Final = 255
logger = logging.getLogger(__name__)
_query = queries("billing.payments")


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
