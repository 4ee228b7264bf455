"""Things are found by their name, mail or id, or by how these begin."""

import pytest

from billing.search import MOST_FOUND, Search
from billing.usage import Usage
from tests.billing.identity.support import new_user
from tests.billing.support import Billing


@pytest.fixture
def search(billing: Billing) -> Search:
    return Search(billing.database)


async def test_each_kind_is_found_by_name_and_by_id_the_whole_name_first(billing, search):
    longer = await billing.accounts.create("Acme_1 West", "free")
    account = await billing.accounts.create("ACME_1", "free")
    await billing.accounts.create("AcmeX1", "free")  # `_` is no wildcard
    user_id = await new_user(billing, "acme_1@example.com")
    key, _ = await billing.keys.create(account.id, "acme_1 key")
    request_id = await billing.debit(account.id, key.id, Usage(input_tokens=1))
    found = [(each.kind, each.id) for each in await search.find("acme_1")]
    assert found == [("account", account.id), ("account", longer.id), ("person", user_id), ("key", key.id)]
    assert [each.id for each in await search.find("acme_1", "key")] == [key.id]
    for typed in (request_id, f" {request_id} "):
        assert [(each.kind, each.id) for each in await search.find(typed)] == [("request", request_id)]
    assert [each.id for each in await search.find(account.id[:-1], "account")] == [account.id]
    for nothing in ("", "  ", "%", "acme%", "a\0", "x" * 5_000):
        assert await search.find(nothing) == []


async def test_each_kind_is_bounded_and_read_by_indexes(billing, search):
    for number in range(MOST_FOUND + 1):
        await billing.accounts.create(f"many {number}", "free")
    assert len(await search.find("many")) == MOST_FOUND
    plan = "SET enable_seqscan = off; SET enable_bitmapscan = on"
    async with billing.database.transaction() as connection:
        await connection.execute(plan)
        rows = await connection.fetch(
            "EXPLAIN SELECT id FROM accounts WHERE lower(name) LIKE 'acme%' OR id LIKE 'acc\\_0%'"
        )
    text = "\n".join(row[0] for row in rows)
    assert "accounts_named" in text
    assert "accounts_begins" in text
