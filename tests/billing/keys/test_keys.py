import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from billing.audit import SYSTEM
from billing.errors import AccountNotFound
from billing.keys.secrets import secret_digest, well_formed
from billing.quotas import Metric, Quota, QuotaError, Window
from billing.schemas.keys import (
    DEFAULT_SCOPES,
    KeyConflict,
    KeyNotFound,
    KeyRefused,
    ScopeWithheld,
    parse_scopes,
    total_tokens_quota,
)
from tests.billing.support import changes_told

DAILY = Quota(Window.day, Metric.tokens, 1000)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


async def test_a_new_key_has_the_defaults_and_its_secret_is_not_stored(billing, account):
    key, secret = await billing.keys.create(account.id, "laptop")
    assert well_formed(secret)
    assert (key.prefix, key.scopes, key.models, key.quotas) == (secret[:10], DEFAULT_SCOPES, None, ())
    assert (key.expires_at, key.last_used_at, key.revoked_at, key.version) == (None, None, None, 1)
    assert await billing.keys.get(key.id) == key
    stored = await billing.database.row("SELECT to_jsonb(api_keys)::text AS said FROM api_keys")
    audited = await billing.database.rows("SELECT to_jsonb(audit_log)::text AS said FROM audit_log")
    for row in (stored, *audited):
        assert secret not in row["said"]
    assert secret_digest(secret).hex() not in "".join(row["said"] for row in audited)


async def test_a_change_raises_the_version_and_null_clears(billing, account):
    key, _ = await billing.keys.create(
        account.id, "laptop", models=("a",), quotas=(DAILY,), max_parallel_requests=3, expires_at=LATER, tags={"a": "b"}
    )
    with changes_told(billing.change_notifier, ("key", key.id, account.id)):
        after = await billing.keys.update(key.id, {"name": "desk", "scopes": ("billing:read",)})
    assert (after.name, after.scopes, after.version) == ("desk", ("billing:read",), 2)
    assert (after.models, after.quotas, after.max_parallel_requests) == (("a",), (DAILY,), 3)
    cleared = await billing.keys.update(
        key.id, {"models": None, "quotas": (), "max_parallel_requests": None, "expires_at": None, "tags": {}}
    )
    assert (cleared.models, cleared.quotas, cleared.max_parallel_requests) == (None, (), None)
    assert (cleared.expires_at, cleared.tags, cleared.version) == (None, {}, 3)
    with changes_told(billing.change_notifier):
        assert await billing.keys.update(key.id, {"name": "desk"}) == cleared
    actions = await billing.database.rows("SELECT action FROM audit_log WHERE subject = $1 ORDER BY id", key.id)
    assert [row["action"] for row in actions] == ["key.create", "key.update", "key.update"]


async def test_revoking_is_idempotent_and_at_once(billing, account):
    key, _ = await billing.keys.create(account.id, "laptop")
    with changes_told(billing.change_notifier, ("key", key.id, account.id)):
        revoked = await billing.keys.revoke(key.id)
        assert await billing.keys.revoke(key.id) == revoked
    assert revoked.revoked_at is not None
    assert revoked.version == 2
    principal = await billing.principals.by_key_id(key.id)
    assert principal is not None
    long_ago = revoked.revoked_at - timedelta(days=365)
    assert not principal.usable_key(long_ago.timestamp()), "no gateway's slow clock may keep the key alive"


async def test_revoking_ends_a_grace_period(billing, account):
    key, _ = await billing.keys.create(account.id, "laptop")
    await billing.database.execute("UPDATE api_keys SET revoked_at = now() + interval '1 day' WHERE id = $1", key.id)
    in_grace = await billing.principals.by_key_id(key.id)
    assert in_grace.usable_key(datetime.now(UTC).timestamp())
    await billing.keys.revoke(key.id)
    ended = await billing.principals.by_key_id(key.id)
    assert not ended.usable_key(datetime.now(UTC).timestamp())


async def test_unknown_keys_and_accounts_are_not_found(billing):
    with pytest.raises(AccountNotFound):
        await billing.keys.create("acc_none", "laptop")
    for call in (billing.keys.get("key_none"), billing.keys.update("key_none", {}), billing.keys.revoke("key_none")):
        with pytest.raises(KeyNotFound):
            await call


async def test_pages_are_newest_first_by_account_or_of_all(billing):
    accounts = [await billing.accounts.create("Acme"), await billing.accounts.create("Other")]
    made = [(await billing.keys.create(accounts[n % 2].id, f"k{n}"))[0].id for n in range(5)]
    first = await billing.keys.page(accounts[0].id, 2)
    second = await billing.keys.page(accounts[0].id, 2, first.next_after)
    assert [key.id for key in first.items + second.items] == [made[4], made[2], made[0]]
    assert second.next_after is None
    assert [key.id for key in (await billing.keys.page(None, 10)).items] == made[::-1]


async def test_last_use_only_moves_forward_and_is_no_change(billing, account):
    one, _ = await billing.keys.create(account.id, "one")
    two, _ = await billing.keys.create(account.id, "two")
    assert await billing.keys.touch_last_used([(one.id, 50.0), (two.id, 10.0), (one.id, 20.0), ("key_none", 1.0)]) == 2
    assert await billing.keys.touch_last_used([(one.id, 40.0), (two.id, 60.5)]) == 2
    assert await billing.keys.touch_last_used([]) == 0
    used = [await billing.keys.get(key.id) for key in (one, two)]
    assert [key.last_used_at and key.last_used_at.timestamp() for key in used] == [50.0, 60.5]
    assert [key.version for key in used] == [1, 1]


def test_scopes_come_as_a_list_or_a_string():
    assert parse_scopes(None) == DEFAULT_SCOPES
    assert parse_scopes("llm:proxy  billing:read llm:proxy") == ("llm:proxy", "billing:read")
    assert parse_scopes(["acme:deploy-now"]) == ("acme:deploy-now",)
    for wrong in ("", [], "llm", "LLM:proxy", "llm:proxy:more", ["llm:proxy billing:read"], ["a:\u0663"]):
        with pytest.raises(KeyRefused) as refused:
            parse_scopes(wrong)
        assert refused.value.field == "scopes"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("models", ()),
        ("models", ("",)),
        ("models", ("a*b",)),
        ("models", ("m",) * 101),
        ("tags", {"a" * 65: "b"}),
        ("tags", {"a": "b" * 257}),
        ("tags", {str(n): "" for n in range(33)}),
        ("max_parallel_requests", 0),
        ("max_parallel_requests", 2**31),
    ],
)
async def test_what_a_key_can_not_say_is_refused(billing, account, field, value):
    key, _ = await billing.keys.create(account.id, "laptop")
    with pytest.raises(KeyRefused) as refused:
        await billing.keys.create(account.id, "other", **{field: value})
    assert refused.value.field == field
    with pytest.raises(KeyRefused):
        await billing.keys.update(key.id, {field: value})
    assert (await billing.keys.page(account.id, 10)).items == (key,)


def test_the_quota_shorthand_is_total_tokens():
    assert total_tokens_quota(0) == ()
    assert total_tokens_quota(500) == (Quota(Window.total, Metric.tokens, 500),)
    with pytest.raises(QuotaError):
        total_tokens_quota(-1)


async def test_a_rotated_key_has_two_secrets_for_a_while(billing, account):
    key, first = await billing.keys.create(account.id, "laptop", expires_at=LATER)
    with changes_told(billing.change_notifier, ("key", key.id, account.id)):
        rotated, second = await billing.keys.rotate(key.id, 3600)
    assert (rotated.id, rotated.prefix, rotated.version) == (key.id, second[:10], 2)
    assert rotated.previous_until is not None
    by_first, by_second = [await billing.principals.by_digest(secret_digest(each)) for each in (first, second)]
    assert by_first.expires_at_s == rotated.previous_until.timestamp()
    assert by_second.expires_at_s == LATER.timestamp()
    assert not by_first.usable_key(rotated.previous_until.timestamp())
    _, third = await billing.keys.rotate(key.id, 3600)
    found = [await billing.principals.by_digest(secret_digest(each)) for each in (first, second, third)]
    assert [each is not None for each in found] == [False, True, True], "the one before the last is over"
    await billing.database.execute("UPDATE api_keys SET previous_until = now() WHERE id = $1", key.id)
    assert await billing.principals.by_digest(secret_digest(second)) is None
    await billing.keys.revoke(key.id)
    with pytest.raises(KeyConflict):
        await billing.keys.rotate(key.id)


async def test_without_grace_the_old_secret_ends_at_once(billing, account):
    key, first = await billing.keys.create(account.id, "laptop")
    rotated, second = await billing.keys.rotate(key.id)
    assert rotated.previous_until is None
    assert await billing.principals.by_digest(secret_digest(first)) is None
    assert await billing.principals.by_digest(secret_digest(second)) is not None
    audited = await billing.database.rows("SELECT to_jsonb(audit_log)::text AS said FROM audit_log")
    for secret in (first, second):
        assert secret_digest(secret).hex() not in "".join(row["said"] for row in audited)


async def test_rotations_at_once_leave_one_secret_and_the_one_before(billing, account):
    key, _ = await billing.keys.create(account.id, "laptop")
    made = await asyncio.gather(*(billing.keys.rotate(key.id, 60) for _ in range(4)))
    valid = [await billing.principals.by_digest(secret_digest(secret)) for _, secret in made]
    assert sum(each is not None for each in valid) == 2
    assert (await billing.keys.get(key.id)).version == 5


async def test_a_leaked_secret_ends_what_it_opens(billing, account):
    key, first = await billing.keys.create(account.id, "laptop")
    _, second = await billing.keys.rotate(key.id, 3600)
    told = []

    async def tell(connection, found):
        told.append(found.id)

    with changes_told(billing.change_notifier, ("key", key.id, account.id)):
        ended = await billing.keys.revoke_leaked(first, actor=SYSTEM, tell=tell)
        assert await billing.keys.revoke_leaked(first, actor=SYSTEM, tell=tell) is None
    assert ended.revoked_at is None, "the new secret has not leaked"
    assert await billing.principals.by_digest(secret_digest(first)) is None
    with changes_told(billing.change_notifier, ("key", key.id, account.id)):
        ended = await billing.keys.revoke_leaked(second, actor=SYSTEM, tell=tell)
        assert await billing.keys.revoke_leaked(second, actor=SYSTEM, tell=tell) is None
    assert ended.revoked_at is not None
    assert told == [key.id, key.id]


async def test_an_account_s_methods_know_its_keys_alone(billing):
    mine, other = await billing.accounts.create("Acme"), await billing.accounts.create("Other")
    key, _ = await billing.keys.create(other.id, "laptop")
    for call in (
        billing.keys.get(key.id, mine.id),
        billing.keys.update(key.id, {"name": "x"}, account_id=mine.id),
        billing.keys.revoke(key.id, account_id=mine.id),
        billing.keys.rotate(key.id, account_id=mine.id),
    ):
        with pytest.raises(KeyNotFound):
            await call
    assert await billing.keys.get(key.id, other.id) == key


async def test_scopes_are_given_only_where_they_may_be(billing, account):

    async def grantable(connection):
        return frozenset({"llm:proxy", "keys:read"})

    with pytest.raises(ScopeWithheld) as withheld:
        await billing.keys.create(account.id, "x", grantable=grantable)
    assert withheld.value.required_scope == "billing:read"
    key, _ = await billing.keys.create(account.id, "x", scopes=("billing:read",))
    kept = await billing.keys.update(key.id, {"scopes": ("billing:read", "llm:proxy")}, grantable=grantable)
    assert kept.scopes == ("billing:read", "llm:proxy"), "what it has it may keep"
    with pytest.raises(ScopeWithheld):
        await billing.keys.update(key.id, {"scopes": ("keys:write",)}, grantable=grantable)
    with pytest.raises(KeyConflict):
        await billing.keys.create(account.id, "y", scopes=("llm:proxy",), grantable=grantable, most=1)
