"""Principals as they are read from Postgres."""

import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from billing.keys.keys import Principals
from billing.keys.secrets import secret_digest
from billing.quotas import Metric, Quota, Window
from tests.billing.support import PLANS

DAILY = Quota(Window.day, Metric.tokens, 1000)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


async def test_a_principal_says_all_of_key_account_and_plan(billing):
    account = await billing.accounts.create("Acme", "starter", 7, (DAILY,))
    key, secret = await billing.keys.create(
        account.id,
        "laptop",
        scopes=("llm:proxy", "acme:deploy"),
        models=("gpt-4o-mini", "claude-*"),
        quotas=(DAILY,),
        max_parallel_requests=3,
        expires_at=LATER,
        tags={"team": "blue"},
        user_id="user_1",
    )
    principal = await billing.principals.by_digest(secret_digest(secret))
    assert principal == await billing.principals.by_key_id(key.id)
    assert (principal.account_id, principal.account_name, principal.account_version) == (account.id, "Acme", 1)
    assert (principal.status, principal.past_due_since_s, principal.credit_limit_nano) == ("active", None, 7)
    assert (principal.plan, principal.account_quotas) == (PLANS["starter"], (DAILY,))
    assert (principal.key_id, principal.key_name, principal.key_prefix) == (key.id, "laptop", key.prefix)
    assert (principal.key_version, principal.user_id) == (1, "user_1")
    assert principal.scopes == {"llm:proxy", "acme:deploy"}
    assert (principal.models, principal.key_quotas) == (("gpt-4o-mini", "claude-*"), (DAILY,))
    assert (principal.max_parallel_requests, principal.tags) == (3, {"team": "blue"})
    assert principal.expires_at_s == LATER.timestamp()
    assert principal.created_at_s == key.created_at.timestamp()
    assert principal.revoked_at_s is None


async def test_an_unknown_digest_or_id_has_no_principal(billing):
    assert await billing.principals.by_digest(secret_digest("mg_none")) is None
    assert await billing.principals.by_key_id("key_none") is None


async def test_an_account_on_a_plan_that_is_gone_gets_the_default_and_an_alarm(billing, caplog):
    account = await billing.accounts.create("Acme", "starter")
    key, _ = await billing.keys.create(account.id, "laptop")
    principals = Principals(billing.database, {"free": PLANS["free"]})
    with caplog.at_level(logging.ERROR):
        principal = await principals.by_key_id(key.id)
    assert principal.plan == PLANS["free"]
    assert account.id in caplog.text
    assert "'starter'" in caplog.text


def test_the_default_plan_must_exist(billing):
    with pytest.raises(ValueError, match="'free'"):
        Principals(billing.database, {})


async def test_past_due_reaches_the_principal(billing, account):
    key, _ = await billing.keys.create(account.id, "laptop")
    due = await billing.accounts.update(account.id, status="past_due")
    principal = await billing.principals.by_key_id(key.id)
    assert (principal.status, principal.past_due_since_s) == ("past_due", due.past_due_since.timestamp())
    assert principal.account_version == 2


async def test_a_plan_without_api_access_takes_the_scope_from_its_keys(billing, account):
    _, secret = await billing.keys.create(account.id, "laptop")
    plans = {**PLANS, "free": replace(PLANS["free"], features=(("api_access", False),))}
    principal = await Principals(billing.database, plans).by_digest(secret_digest(secret))
    assert principal.scopes == {"billing:read"}
