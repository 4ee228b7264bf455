"""Operators' commands on balances, people, the audit log and prices, on stores that are given."""

import asyncio

import pytest
from ulid import ULID

from billing.cli import REFUSED, USAGE
from billing.database.connection import Database
from billing.ledger.writer import write_debits
from tests.gateway.commands.test_commands import debit_of
from tests.support.commands import Shell

pytestmark = pytest.mark.slow


@pytest.fixture
def account(shell: Shell, stores: dict[str, str]) -> str:
    return str(shell.run("operator", "account", "create", "Acme", "--json", env=stores).json["id"])


def test_a_balance_is_adjusted_and_an_account_closed(shell, stores, account):
    adjust = ("operator", "adjust", account, "--reason", "x", "--yes")
    taken = shell.run(*adjust, "--take", "2.50", "--json", env=stores).json
    assert (taken["amount_usd"], taken["balance_usd"]) == ("-2.50", "-2.50")
    added = shell.run(*adjust, "--add", "1", "--against", "revenue", env=stores)
    assert "-1.50" in added.stdout
    for wrong in (("--reason", "x"), ("--add", "1", "--take", "1", "--reason", "x"), ("--add=-1", "--reason", "x")):
        shell.run("operator", "adjust", account, *wrong, env=stores).failed(USAGE)
    closed = shell.run("operator", "close", account, "--reason", "gone", "--json", env=stores)
    assert closed.json["status"] == "closed"
    assert shell.run("operator", "reopen", account, "--reason", "back", "--json", env=stores).json["status"] == "active"
    shown = shell.run("operator", "audit", "--account", account, "--action", "account.*", "--json", env=stores).json
    entries = [(each["action"], each["actor"], each["after"].get("reason")) for each in shown["data"]]
    assert entries[:2] == [("account.update", "admin", "back"), ("account.update", "admin", "gone")]
    assert len(entries) == 5


def test_operators_are_told_of_troubles_and_try_whether_they_would_be(shell, stores):
    webhooks = ("operator", "webhooks")
    added = shell.run(*webhooks, "add", "https://example.com/pager", "--type", "trouble.began", "--json", env=stores)
    endpoint = added.json["id"]
    assert added.json["secret"]
    assert f"webhooks deliveries {endpoint}" in shell.run(*webhooks, "test", endpoint, env=stores).stdout
    [sent] = shell.run(*webhooks, "deliveries", endpoint, "--json", env=stores).json["data"]
    assert sent["type"] == "test"
    assert "trouble.began" in shell.run(*webhooks, "list", env=stores).stdout
    assert "removed" in shell.run(*webhooks, "remove", endpoint, env=stores).stdout


def test_people(shell, stores, database_url):
    async def register():
        database = Database(database_url)
        insert = "INSERT INTO users (id, email, totp_confirmed_at) VALUES ('usr_1', 'ada@example.com', now())"
        await database.execute(insert)
        await database.close()

    asyncio.run(register())
    assert "ada@example.com" in shell.run("operator", "user", "list", "--status", "pending", env=stores).stdout
    assert "not found" not in shell.run("operator", "user", "show", "usr_none", env=stores).failed(REFUSED)
    user = ("operator", "user")
    assert shell.run(*user, "approve", "usr_1", "--json", env=stores).json["status"] == "active"
    assert shell.run(*user, "operator", "usr_1", "on", "--json", env=stores).json["operator"] is True
    assert shell.run(*user, "disable", "usr_1", "--json", env=stores).json["operator"] is False
    assert shell.run(*user, "enable", "usr_1", "--json", env=stores).json["status"] == "active"
    shell.run(*user, "operator", "usr_1", "perhaps", env=stores).failed(USAGE)


def test_a_period_is_priced_again(shell, stores, database_url, account):
    one = debit_of(account, str(ULID()))

    async def write():
        database = Database(database_url)
        await write_debits(database, [one])
        await database.close()

    asyncio.run(write())
    asked = (f"{one.provider}/{one.provider_model}", "--since", "2020-01-01", "--until", "2100-01-01")
    reprice = ("operator", "price", "reprice")
    compared = shell.run(*reprice, *asked, "--json", env=stores).json
    assert (compared["dry_run"], compared["requests"], compared["corrected"]) == (True, 1, 0)
    applied = shell.run(*reprice, *asked, "--apply", "--reason", "x", "--yes", env=stores)
    assert "1 requests" in applied.stdout
    shell.run(*reprice, "nothing", *asked[1:], env=stores).failed(USAGE)
    shell.run(*reprice, asked[0], "--since", "x", "--until", "y", env=stores).failed(USAGE)


async def test_domains_of_an_organization(shell, stores):
    database = Database(stores["DATABASE_URL"])
    await database.execute("INSERT INTO accounts (id, name, plan) VALUES ('acc_1', 'Acme', 'free')")
    await database.execute(
        "INSERT INTO organizations (id, slug, name, account_id) VALUES ('org_1', 'acme', 'Acme', 'acc_1')"
    )
    await database.close()

    def domains(*given):
        ran = shell.run("operator", "org", "domains", "org_1", *given, "--json", env=stores)
        return ran.json["domains"]

    assert await asyncio.to_thread(domains) == []
    assert await asyncio.to_thread(domains, "Acme.example", "acme.test") == ["acme.example", "acme.test"]
    assert await asyncio.to_thread(domains, "--remove", "acme.test") == ["acme.example"]
    none = await asyncio.to_thread(lambda: shell.run("operator", "org", "domains", "org_2", env=stores))
    none.failed(REFUSED)
