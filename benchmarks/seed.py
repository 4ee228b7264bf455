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

from billing.accounts.grants import PROMOTIONS
from billing.keys.secrets import new_secret, secret_digest, shown_prefix
from billing.money import DEFAULT_PRIORITY
from billing.quotas import Window
from billing.schemas.keys import DEFAULT_SCOPES

PLAN: Final = "free"
BALANCE_NANO: Final = 1_000_000 * 10**9
LIMIT_TOKENS: Final = 10**15
METRICS: Final = ("tokens", "requests", "input_tokens")
# Between the tokens (about 250,000) and the bytes of a prompt of a megabyte, beside which nothing else is spent.
COUNTED_LIMIT_TOKENS: Final = 700_000
SEED: Final = 20260101


@dataclass(frozen=True, slots=True)
class Size:
    """How many accounts and keys each set of customers has."""

    accounts: int
    keys: int

    def __post_init__(self) -> None:
        if not 1 <= self.accounts <= self.keys:
            raise ValueError("at least one account, and a key for each, are needed")


def quotas(windows: int, limit: int = LIMIT_TOKENS) -> str:
    """So many windows as JSON: on tokens from minute to total, from the seventh on on other metrics, too."""
    pairs = [(window, metric) for metric in METRICS for window in Window][:windows]
    if len(pairs) < windows:
        raise ValueError(f"there are {len(METRICS) * len(Window)} windows at most")
    return json.dumps([{"window": window.name, "metric": metric, "limit": limit} for window, metric in pairs])


async def seed(database_url: str, size: Size, windows: int) -> list[str]:
    """Write one set of customers; the secrets of its keys, in a random order that is the same in every run."""
    return await _seed(database_url, size, quotas(windows), f"{SEED} {windows}")


async def seed_counted(database_url: str) -> str:
    """The secret of a customer whose windows take a prompt of a megabyte only when its tokens were counted."""
    (secret,) = await _seed(database_url, Size(1, 1), quotas(6, COUNTED_LIMIT_TOKENS), f"{SEED} counted")
    return secret


async def _seed(database_url: str, size: Size, quotas_json: str, name: str) -> list[str]:
    choice = random.Random(name)  # noqa: S311 - the keys of a benchmark are no secrets
    accounts = [str(ULID()) for _ in range(size.accounts)]
    secrets = [new_secret(choice.choice) for _ in range(size.keys)]
    first = secret_digest(secrets[0])
    connection = await asyncpg.connect(database_url)
    try:
        if await connection.fetchval("SELECT true FROM api_keys WHERE secret_sha256 = $1", first):
            choice.shuffle(secrets)  # a kept database, which has them
            return secrets
        async with connection.transaction():
            await connection.copy_records_to_table(
                "accounts",
                columns=("id", "name", "plan", "quotas", "balance_nano"),
                records=[(account, "Bench", PLAN, quotas_json, BALANCE_NANO) for account in accounts],
            )
            granted = [(str(ULID()), account) for account in accounts]
            await connection.copy_records_to_table(
                "transfers",
                columns=("id", "debit_account", "credit_account", "amount_nano", "kind"),
                records=[(grant, PROMOTIONS, account, BALANCE_NANO, "grant") for grant, account in granted],
            )
            amounts = BALANCE_NANO, BALANCE_NANO, DEFAULT_PRIORITY, True
            await connection.copy_records_to_table(
                "lots",
                columns=(
                    "id",
                    "account_id",
                    "kind",
                    "transfer_id",
                    "amount_nano",
                    "left_nano",
                    "priority",
                    "promotional",
                ),
                records=[(grant, account, "grant", grant, *amounts) for grant, account in granted],
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
                        quotas_json,
                    )
                    for number, secret in enumerate(secrets)
                ],
            )
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    choice.shuffle(secrets)
    return secrets


_NUMBERED: Final = (
    """INSERT INTO accounts (id, name, plan, quotas, balance_nano)
    SELECT 'A' || lpad(n::text, 25, '0'), 'Bench', $3, $4::text::jsonb, $5::bigint
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind)
    SELECT 'G' || lpad(n::text, 25, '0'), $3, 'A' || lpad(n::text, 25, '0'), $4::bigint, 'grant'
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO lots (id, account_id, kind, transfer_id, amount_nano, left_nano, priority, promotional)
    SELECT 'G' || lpad(n::text, 25, '0'), 'A' || lpad(n::text, 25, '0'), 'grant', 'G' || lpad(n::text, 25, '0'),
        $3::bigint, $3::bigint, $4, true
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO api_keys (id, account_id, name, prefix, secret_sha256, scopes, quotas)
    SELECT 'K' || lpad(n::text, 25, '0'), 'A' || lpad(n::text, 25, '0'), 'bench', 'mg_bench',
        sha256(n::text::bytea), $3, $4::text::jsonb
    FROM generate_series($1::bigint, $2::bigint) AS n""",
)


def account_id(number: int) -> str:
    """The id of a numbered account, as long as a real one."""
    return f"A{number:025d}"


def key_id(number: int) -> str:
    """The id of the one key of a numbered account."""
    return f"K{number:025d}"


async def seed_numbered(database_url: str, numbers: range, windows: int) -> None:
    """Accounts by the million: each with a grant and a key, whose secrets nobody knows."""
    quotas_json, bounds = quotas(windows), (numbers[0], numbers[-1])
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(_NUMBERED[0], *bounds, PLAN, quotas_json, BALANCE_NANO)
            await connection.execute(_NUMBERED[1], *bounds, PROMOTIONS, BALANCE_NANO)
            await connection.execute(_NUMBERED[2], *bounds, BALANCE_NANO, DEFAULT_PRIORITY)
            await connection.execute(_NUMBERED[3], *bounds, list(DEFAULT_SCOPES), quotas_json)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


_UNBALANCED: Final = """
WITH moved AS (
    SELECT debit_account AS id, -sum(amount_nano) AS nano FROM transfers GROUP BY 1
    UNION ALL
    SELECT credit_account, sum(amount_nano) FROM transfers GROUP BY 1
), summed AS (SELECT id, sum(nano) AS nano FROM moved GROUP BY 1)
SELECT count(*) FROM accounts LEFT JOIN summed USING (id) WHERE balance_nano <> coalesce(summed.nano, 0)
"""


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
        unbalanced = await connection.fetchval(_UNBALANCED)
    finally:
        await connection.close()
    return Written(events["events"], transfers, events["charged_nano"], events["estimated"], unbalanced)
