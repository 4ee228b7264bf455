"""How a customer begins: a list that follows the truth, rights of a key as presets, and what fails beside its page."""

from billing.ledger.catalogue import sync_prices
from billing.permissions import SCOPES
from billing.usage import Usage
from tests.billing.support import PRICES

NANO = 10**9


async def steps(console, who="owner"):
    """The steps of the list, with whether each is done; None: there is no list."""
    words = (await console.get("/", who)).words
    if "Getting started" not in words:
        return None
    listed = words.partition("Getting started ")[2].partition(" Available")[0]
    names = ("Create a key", "Get credit", "Send the first request", "Protect your sign-in")
    return {name: listed[: listed.index(name)].rstrip().endswith("done") for name in names if name in listed}


async def test_the_list_follows_what_is_true(console):
    billing, account_id = console.billing, console.organization.account_id
    await sync_prices(billing.database, PRICES)
    none = {"Create a key": False, "Get credit": False, "Send the first request": False, "Protect your sign-in": False}
    assert await steps(console) == none
    key, _ = await billing.keys.create(account_id, "laptop")
    assert await steps(console) == none | {"Create a key": True}
    await billing.grants.grant(account_id, 5 * NANO, "gift")
    assert await steps(console) == none | {"Create a key": True, "Get credit": True}
    await billing.grants.adjust(account_id, -5 * NANO, "gone", "all of it")
    assert await steps(console) == none | {"Create a key": True}  # what was true is no more
    await billing.debit(account_id, key.id, Usage(input_tokens=1000))
    assert await steps(console) is None


async def test_rights_of_a_key_are_a_preset_or_custom(console):
    page = await console.get("/keys/new", "owner")
    assert 'value="calls" checked' in page.text
    sent = [("name", "reader"), ("preset", "reads"), ("scope", "keys:write")]  # what is ticked below does not count
    assert (await console.post("/keys/new", "owner", sent)).status == 200
    keys = (await console.api("/billing/keys", "owner"))["data"]
    assert keys[0]["scopes"] == sorted(each for each in SCOPES if each.endswith(":read"))
    custom = [("name", "own"), ("preset", "custom"), ("scope", "billing:read")]
    assert (await console.post("/keys/new", "owner", custom)).status == 200
    made = (await console.api("/billing/keys", "owner"))["data"][0]
    assert made["scopes"] == ["billing:read"]
    shown = await console.get(f"/keys/{made['id']}", "owner")
    assert 'value="custom" checked' in shown.text
    # The right to do all that oneself may gives a member no more than a member has.
    assert (await console.post("/keys/new", "member", [("name", "all"), ("preset", "all")])).status == 200
    own = (await console.api("/billing/keys", "member"))["data"][0]
    assert "billing:setup" not in own["scopes"]
    assert "llm:proxy" in own["scopes"]


async def test_a_webhook_that_fails_is_said_beside_the_link_to_it(console):
    execute, account_id = console.billing.database.execute, console.organization.account_id
    for number in range(2):
        await execute(
            "INSERT INTO webhook_endpoints (id, account_id, url, secret) VALUES ($1, $2, 'https://a.test', 'w')",
            f"whe_{number}",
            account_id,
        )
    assert "failing" not in (await console.get("/keys", "owner")).words
    await execute("UPDATE webhook_endpoints SET failing_since = now() WHERE id = 'whe_0'")
    assert "Alerts 1 failing" in (await console.get("/keys", "owner")).words
    await execute("UPDATE webhook_endpoints SET disabled_at = now(), disabled_reason = 'failed' WHERE id = 'whe_0'")
    assert "Alerts 1 failing" in (await console.get("/", "viewer")).words
    await execute("UPDATE webhook_endpoints SET disabled_reason = 'by hand' WHERE id = 'whe_0'")
    assert "failing" not in (await console.get("/keys", "owner")).words
    assert "failing" not in (await console.get("/keys", "stranger")).words


async def test_a_closed_account_is_shown_no_way_to_pay(console):
    account_id = console.organization.account_id
    await console.billing.accounts.update(account_id, status="closed")
    status = await console.api("/billing/status", "owner")
    assert (status["state"], status["next"], status["upgrade"]) == ("closed", None, None)
    words = (await console.get("/", "owner")).words
    assert "The account is closed: ask whoever runs this gateway" in words
    assert "Buy credit" not in words


async def test_a_plans_prices_are_a_list(console):
    listed = await console.api("/billing/plans/starter/prices", "viewer")
    page = await console.get("/plan/starter/prices", "viewer")
    assert [each["id"] for each in listed["data"]] == ["fast"]
    assert page.values == ["0.15", "0.60", "9"]
    assert "%" not in page.words
    assert 'href="./plan/starter/prices"' in (await console.get("/plan", "viewer")).text
