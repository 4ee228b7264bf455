import pytest

from billing.keys.secrets import secret_digest, well_formed

pytestmark = pytest.mark.slow

DAILY = {"window": "day", "metric": "tokens", "limit": 1000}
SHAPE = {
    "id",
    "prefix",
    "name",
    "account_id",
    "user_id",
    "scopes",
    "models",
    "quotas",
    "max_parallel_requests",
    "default_tool_calls",
    "tags",
    "created_at",
    "expires_at",
    "last_used_at",
    "revoked_at",
}


async def test_a_key_with_the_least(api):
    account, made = await api.customer()
    assert set(made) == SHAPE | {"key", "warnings"}
    secret = made.pop("key")
    assert made.pop("warnings") == []
    assert well_formed(secret)
    assert made["prefix"] == secret[:10]
    assert (made["account_id"], made["user_id"], made["name"]) == (account["id"], None, "laptop")
    assert made["scopes"] == ["llm:proxy", "billing:read"]
    assert (made["models"], made["quotas"], made["tags"]) == (None, [], {})
    assert (made["max_parallel_requests"], made["expires_at"]) == (None, None)
    assert (await api.admin("GET", f"/keys/{made['id']}")).json == made


async def test_a_key_with_everything(api):
    asked = {
        "scopes": ["llm:proxy", "acme:deploy"],
        "models": ["gpt-4o-mini", "claude-*"],
        "quotas": [DAILY],
        "max_parallel_requests": 3,
        "default_tool_calls": 4,
        "expires_at": "2100-01-01T02:00:00+02:00",
        "tags": {"team": "blue"},
        "user_id": "user_1",
    }
    _, made = await api.customer(**asked)
    assert {name: made[name] for name in asked} == {**asked, "expires_at": "2100-01-01T00:00:00.000Z"}


async def test_scopes_as_a_string_and_the_quota_shorthand(api):
    _, made = await api.customer(scopes="billing:read keys:read", quota=500, quotas=[DAILY])
    assert made["scopes"] == ["billing:read", "keys:read"]
    assert made["quotas"] == [DAILY, {"window": "total", "metric": "tokens", "limit": 500}]
    _, unlimited = await api.customer(quota=0)
    assert unlimited["quotas"] == []
    account, _ = await api.customer()
    total = {"window": "total", "metric": "tokens", "limit": 5}
    both = {"account_id": account["id"], "name": "x", "quota": 5, "quotas": [total]}
    (await api.admin("POST", "/keys", both)).refused(400, "invalid_request_error", "quotas")


async def test_no_secret_and_no_hash_is_ever_read_again(api):
    account, made = await api.customer()
    params = {"account_id": account["id"]}
    for path in ("/keys", f"/keys/{made['id']}", "/accounts", f"/accounts/{account['id']}"):
        text = str((await api.admin("GET", path, params=params)).json)
        assert made["key"] not in text
        assert made["key"][10:] not in text
        assert secret_digest(made["key"]).hex() not in text


async def test_lists_by_account_and_of_all(api):
    account, first = await api.customer()
    second = (await api.admin("POST", "/keys", {"account_id": account["id"], "name": "second"})).json
    _, other = await api.customer()
    mine = (await api.admin("GET", "/keys", params={"account_id": account["id"]})).json
    assert [key["id"] for key in mine["data"]] == [second["id"], first["id"]]
    assert all(set(key) == SHAPE for key in mine["data"])
    everyone = (await api.admin("GET", "/keys")).json
    assert [key["id"] for key in everyone["data"]] == [other["id"], second["id"], first["id"]]
    page = (await api.admin("GET", "/keys", params={"limit": "2"})).json
    rest = (await api.admin("GET", "/keys", params={"limit": "2", "cursor": page["next_cursor"]})).json
    assert [key["id"] for key in rest["data"]] == [first["id"]]
    assert (await api.admin("GET", "/keys", params={"account_id": "acc_none"})).json["data"] == []


async def test_a_patch_changes_what_it_says_and_null_clears(api):
    _, made = await api.customer(models=["a"], quotas=[DAILY], max_parallel_requests=3, tags={"a": "b"})
    path = f"/keys/{made['id']}"
    patched = (
        await api.admin("PATCH", path, {"name": "desk", "scopes": "billing:read", "expires_at": "2100-01-01"})
    ).json
    assert (patched["name"], patched["scopes"]) == ("desk", ["billing:read"])
    assert (patched["models"], patched["quotas"], patched["max_parallel_requests"]) == (["a"], [DAILY], 3)
    assert patched["expires_at"] == "2100-01-01T00:00:00.000Z"
    nothing = dict.fromkeys(("scopes", "models", "quotas", "max_parallel_requests", "expires_at", "tags"))
    cleared = (await api.admin("PATCH", path, nothing)).json
    assert cleared["scopes"] == ["llm:proxy", "billing:read"]
    assert (cleared["models"], cleared["quotas"], cleared["tags"]) == (None, [], {})
    assert (cleared["max_parallel_requests"], cleared["expires_at"]) == (None, None)
    assert (await api.admin("PATCH", path, {})).json == cleared


async def test_a_key_of_no_account_is_not_made(api):
    (await api.admin("POST", "/keys", {"account_id": "acc_none", "name": "x"})).refused(404, "not_found")


async def test_revoking_is_204_and_stays(api):
    _, made = await api.customer()
    path = f"/keys/{made['id']}"
    assert (await api.get(made["key"], "/account/balance")).status == 200
    for _ in range(2):
        revoked = await api.admin("DELETE", path)
        assert (revoked.status, revoked.json) == (204, None)
    (await api.get(made["key"], "/account/balance")).refused(401, "invalid_api_key")
    assert (await api.admin("GET", path)).json["revoked_at"].endswith("Z")
