"""Accounts, keys and credit, written in bulk as the services would write them: each account's balance has its grant.

A set of customers is known by how many token windows its accounts and its keys have. Windows and balances are so large
that nothing is ever refused.
"""

import json
import random
from dataclasses import dataclass
from typing import Final

import asyncpg
from ulid import ULID

from billing.keys import DEFAULT_SCOPES, new_secret, secret_digest, shown_prefix
from billing.ledger.grants import PROMOTIONS
from billing.quotas import Window

PLAN: Final = "free"
BALANCE_NANO: Final = 1_000_000 * 10**9
LIMIT_TOKENS: Final = 10**15
SEED: Final = 20260101


@dataclass(frozen=True, slots=True)
class Size:
    """How many accounts and keys each set of customers has."""

    accounts: int
    keys: int

    def __post_init__(self) -> None:
        if not 1 <= self.accounts <= self.keys:
            raise ValueError("at least one account, and a key for each, are needed")


def quotas(windows: int) -> str:
    """The first so many windows, from minute to total, on tokens, as JSON."""
    said = [{"window": window.name, "metric": "tokens", "limit": LIMIT_TOKENS} for window in list(Window)[:windows]]
    return json.dumps(said)


async def seed(database_url: str, size: Size, windows: int) -> list[str]:
    """Write one set of customers; the secrets of its keys, in a random order that is the same in every run."""
    choice = random.Random(f"{SEED} {windows}")  # noqa: S311 - the keys of a benchmark are no secrets
    accounts = [str(ULID()) for _ in range(size.accounts)]
    secrets = [new_secret(choice.choice) for _ in range(size.keys)]
    said = quotas(windows)
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.copy_records_to_table(
                "accounts",
                columns=("id", "name", "plan", "quotas", "balance_nano"),
                records=[(account, "Bench", PLAN, said, BALANCE_NANO) for account in accounts],
            )
            await connection.copy_records_to_table(
                "transfers",
                columns=("id", "debit_account", "credit_account", "amount_nano", "kind"),
                records=[(str(ULID()), PROMOTIONS, account, BALANCE_NANO, "grant") for account in accounts],
            )
            await connection.copy_records_to_table(
                "api_keys",
                columns=("id", "account_id", "name", "prefix", "secret_sha256", "scopes", "quotas"),
                records=[
                    (
                        str(ULID()),
                        accounts[number % size.accounts],
                        "bench",
                        shown_prefix(secret),
                        secret_digest(secret),
                        list(DEFAULT_SCOPES),
                        said,
                    )
                    for number, secret in enumerate(secrets)
                ],
            )
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    choice.shuffle(secrets)
    return secrets


@dataclass(frozen=True, slots=True)
class Written:
    """What the ledger holds, amounts in nano-USD. `unbalanced` accounts have another balance than their transfers."""

    events: int
    transfers: int
    charged_nano: int
    estimated: int
    unbalanced: int


async def written(database_url: str) -> Written:
    """Read back what a run has left in the ledger."""
    connection = await asyncpg.connect(database_url)
    try:
        (events,) = await connection.fetch(
            "SELECT count(*) AS events, coalesce(sum(charged_nano), 0)::bigint AS charged_nano,"
            " count(*) FILTER (WHERE estimated) AS estimated FROM usage_events"
        )
        transfers = await connection.fetchval("SELECT count(*) FROM transfers WHERE kind = 'usage'")
        unbalanced = await connection.fetchval(
            "SELECT count(*) FROM accounts a WHERE balance_nano <>"
            " (SELECT coalesce(sum(CASE WHEN credit_account = a.id THEN amount_nano ELSE -amount_nano END), 0)"
            " FROM transfers WHERE credit_account = a.id OR debit_account = a.id)"
        )
    finally:
        await connection.close()
    return Written(events["events"], transfers, events["charged_nano"], events["estimated"], unbalanced)
