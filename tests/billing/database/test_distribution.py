"""What docs/scale.md says of the ledger's keys, by the catalog: whether each has the account, as Citus demands."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from billing.database.connection import Database
from tests.support.commands import CHECKOUT

PAGE = (CHECKOUT / "docs" / "scale.md").read_text()
STATEMENTS = CHECKOUT / "billing" / "ledger" / "sql"
# A row of an account is found by the account alone.
ACCOUNT = {"accounts": "id"}
UNIQUE = """
SELECT t.relname AS name, array_agg(a.attname::text ORDER BY k.place) AS columns
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.number
WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace AND NOT t.relispartition
GROUP BY t.relname, i.indexrelid, i.indisprimary ORDER BY t.relname, NOT i.indisprimary, i.indexrelid
"""


def documented() -> dict[str, tuple[list[list[str]], bool]]:
    """The keys of each table of the page, and whether all have the account."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (yes|no) \|$", PAGE, re.MULTILINE)
    keys = {name: [key.split(", ") for key in re.findall(r"`([^`]+)`", said)] for name, said, _ in rows}
    return {name: (keys[name], whole == "yes") for name, _, whole in rows}


def written(files: list[Path]) -> set[str]:
    """The tables that these statements write."""
    return {name for file in files for name in re.findall(r"(?:INSERT INTO|^ *UPDATE) (\w+)", file.read_text(), re.M)}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, size=1)
    yield opened
    await opened.close()


async def test_the_keys_of_what_requests_write_are_as_documented(database: Database) -> None:
    found: dict[str, list[list[str]]] = {}
    for row in await database.rows(UNIQUE):
        found.setdefault(row["name"], []).append(row["columns"])
    said = documented()
    assert said.keys() == written([*STATEMENTS.glob("write_*.sql"), STATEMENTS / "roll_usage.sql"])
    for name, (keys, whole) in said.items():
        assert found.get(name, []) == keys, name
        assert all(ACCOUNT.get(name, "account_id") in key for key in keys) is whole, name


async def test_a_month_of_events_is_a_partition_of_the_engines_own(database: Database) -> None:
    await database.execute("SELECT create_usage_months('2026-01-01', 2)")
    plan = await database.rows(
        "EXPLAIN SELECT FROM usage_events WHERE admitted_at >= '2026-01-05+00' AND admitted_at < '2026-01-06+00'"
    )
    text = "\n".join(row[0] for row in plan)
    assert "usage_events_2026_01" in text
    assert "usage_events_2026_02" not in text
