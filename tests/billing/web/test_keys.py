"""Keys through the console: made and shown once, changed where something was changed, rotated, revoked."""

import re

from billing.ledger.catalogue import sync_prices
from billing.usage import Usage
from tests.billing.support import PRICES
from tests.billing.web.support import changed, fields


async def test_a_key_is_made_changed_rotated_and_revoked(console):
    form = fields(await console.get("/keys/new", "member"), "/keys/new")
    assert ("scope", "llm:proxy") in form
    wrong = await console.post("/keys/new", "member", changed(form, name="<laptop>", quota_limit="much"))
    assert wrong.status == 422
    assert 'value="&lt;laptop&gt;"' in wrong.text
    assert 'value="much"' in wrong.text
    assert re.search(r'<p class="wrong" id="w-quotas">[^<]+', wrong.text)
    given = changed(
        form,
        name="<laptop>",
        quota_limit="12.50",
        models="fast\nslow-*",
        tags="team=blue",
        expires_at="2037-01-31T12:00",
    )
    made = await console.post("/keys/new", "member", given)
    assert made.status == 200
    secret = re.search(r"<code>(mg_\S+?|sk\S+?)</code>", made.text)
    assert secret is not None, made.words
    assert made.words.count(secret[1]) == 4  # itself, curl, Python, JavaScript
    assert '"model": "fast"' in made.words
    [key] = (await console.api("/billing/keys", "member"))["data"]
    assert (key["name"], key["models"], key["tags"]) == ("<laptop>", ["fast", "slow-*"], {"team": "blue"})
    assert key["quotas"] == [{"window": "month", "metric": "cost", "limit": "12.50"}]
    assert key["expires_at"] == "2037-01-31T12:00:00.000Z"

    path = f"/keys/{key['id']}"
    shown = await console.get(path, "member")
    assert secret[1] not in shown.text
    form = fields(shown, path)
    assert (await console.post(path, "member", form)).location == f"../keys/{key['id']}?notice=saved"
    assert (await console.api("/billing/keys", "member"))["data"] == [key]
    await console.billing.keys.update(key["id"], {"tags": {"team": "red"}})  # by somebody else, meanwhile
    await console.post(path, "member", changed(form, name="desk", models=""))
    [after] = (await console.api("/billing/keys", "member"))["data"]
    assert after == key | {"name": "desk", "models": None, "tags": {"team": "red"}}
    [row] = await console.billing.database.rows(
        "SELECT before, after FROM audit_log WHERE action = 'key.update' AND actor LIKE 'user:%'"
    )
    assert "scopes" not in row["after"] or row["before"]["scopes"] == row["after"]["scopes"]

    rotated = await console.post(f"{path}/rotate", "member", {"grace_seconds": "3600"})
    assert "stays valid until" in rotated.words
    assert secret[1] not in rotated.text
    refused = await console.post(f"{path}/rotate", "member", {"grace_seconds": "99999999"})
    assert (refused.status, "w-grace_seconds" in refused.text) == (422, True)

    other = await console.get(path, "viewer")
    assert ("may not change keys" in other.words, "<button>Rotate" in other.text) == (True, False)
    assert (await console.post(f"{path}/revoke", "viewer")).status == 403
    assert (await console.post(f"{path}/revoke", "admin")).location == "../../keys?notice=key-revoked"
    assert "can't be restored" in (await console.get(path, "member")).words


async def test_what_no_form_sends_is_refused_where_it_was_typed(console):
    form, many = fields(await console.get("/keys/new", "member"), "/keys/new"), "9" * 5_000
    for wrong in (
        {"quota_metric": "requests", "quota_limit": many},
        {"max_parallel_requests": many},
        {"expires_at": "9999-13-31T23:59"},
    ):
        assert (await console.post("/keys/new", "member", changed(form, name="x", **wrong))).status == 422, wrong
    key, _ = await console.billing.keys.create(
        console.organization.account_id, "mine", user_id=console.persons["member"]
    )
    deep = {"name": "x", "was": '{"name": ' + "[" * 15_000}
    assert (await console.post(f"/keys/{key.id}", "member", deep)).status == 422
    assert (await console.post(f"/keys/{key.id}/rotate", "member", {"grace_seconds": many})).status == 422


async def test_the_list_has_what_each_key_has_spent_and_a_leaked_one_is_revoked(console):
    billing, account_id = console.billing, console.organization.account_id
    await sync_prices(billing.database, PRICES)
    assert "No keys yet" in (await console.get("/keys", "viewer")).words
    secrets = {}
    for name, tokens in (("one", 1000), ("two", 0), ("three", 4000)):
        key, secrets[name] = await billing.keys.create(account_id, name)
        if tokens:
            await billing.debit(account_id, key.id, Usage(input_tokens=tokens, output_tokens=1))
    totals = await console.api("/account/usage/summary", "viewer", group_by="key")
    by_key = {each["group"]["key"]: each["charged_usd"] for each in totals["data"]}
    first = await console.get("/keys?limit=2", "viewer")
    cursor = re.search(r'rel="next" href="[^"]*cursor=([^"&]+)', first.text)
    second = await console.get(f"/keys?limit=2&cursor={cursor[1]}", "viewer")
    keys = (await console.api("/billing/keys", "viewer"))["data"]
    assert first.values + second.values == [by_key.get(each["id"], "0.00") for each in keys]
    told = await console.post("/keys/leaked", "nobody", {"key": secrets["one"]})
    assert told.location == "../keys/leaked?notice=leak-told"
    assert (await console.post("/keys/leaked", "nobody", {"key": "no secret"})).location == told.location
    assert "revoked" in (await console.get(f"/keys/{keys[2]['id']}", "owner")).words


async def test_the_quickstart_has_the_first_request_and_shows_it_arrive(console):
    page = await console.get("/quickstart", "member")
    assert "No requests yet" in page.words
    assert f"curl {console.services.browsers.rules.url}/v1/chat/completions" in page.words
    assert "Create your first key" in page.words
    playground = re.search(r'<form[^>]*id="playground"[^>]*>(.*?)</form>', page.text, re.DOTALL)
    assert "name=" not in playground[0]  # what is typed there is no part of any form that is sent
    assert re.search(r'data-base="\./\.\./v1"', playground[0])
    await sync_prices(console.billing.database, PRICES)
    account_id = console.organization.account_id
    await console.billing.debit(account_id, "key_1", Usage(input_tokens=7))
    assert 'data-label="Charge"' in (await console.get("/quickstart", "viewer")).text
