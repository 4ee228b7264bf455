"""The console on a port of its own, an organization with one person of each role, and their browsers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from billing.api.services import PaymentOversight, Services
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import Keyspace
from billing.holds.redis.state import RedisState
from billing.identity.browsers import BrowserRules
from billing.payments.assembly import (
    PaymentParts,
    PaymentRules,
    Payments,
    deployment_of,
    local_provider,
    make_payments,
)
from billing.payments.flows import FlowRules
from billing.plans import DEFAULT_PLAN
from billing.refused_requests import RefusedRequests
from billing.schemas.quotas import WindowShape
from billing.schemas.system import ModelShape, PricingShape
from billing.settings import RefusalSettings
from tests.billing.api.conftest import people, registry
from tests.billing.api.conftest import services as bare_services
from tests.billing.identity.sessions_support import People
from tests.billing.identity.support import join, new_organization, new_user
from tests.billing.support import PLANS, Billing
from tests.billing.web.support import Console, serving

__all__ = ["bare_services", "people", "registry"]

MODELS = [
    ModelShape(
        id="fast",
        created=0,
        owned_by="openai",
        display_name="gpt-4o-mini",
        max_output_tokens=9,
        context_length=None,
        context_window=None,
        pricing=PricingShape(price_id="p", usd_per_million={"input": "0.15", "output": "0.60"}, usd_per_unit={}),
    )
]


async def windows(account_id: str) -> list[WindowShape]:
    """What is left of quotas, which nothing counts here."""
    what: dict[str, Any] = {"subject": "plan", "window": "day", "metric": "tokens", "model": None, "resets_at": None}
    tokens = WindowShape(**what, limit=9_000, used=1, held=0, remaining=8_999)
    return [tokens, structs.replace(tokens, metric="cost", limit="5.00", used="4.00", remaining="1.00")]


@pytest.fixture
async def payments(billing: Billing) -> Payments:
    """The local provider, which leads back to the console."""
    parts = PaymentParts(
        billing.database,
        billing.accounts,
        billing.grants,
        billing.change_notifier,
        PLANS,
        billing.new_id,
        await deployment_of(billing.database),
    )
    own = BrowserRules().url
    flows = FlowRules(500, 1_000_000, 2_000, frozenset({own}), own)
    rules = PaymentRules(flows, DEFAULT_PLAN, timedelta(days=10), own)
    return make_payments(parts, rules, local_provider(parts, rules.base_url))


@pytest.fixture
async def services(
    bare_services: Services, redis_url: str, key_prefix: str, payments: Payments
) -> AsyncIterator[Services]:
    """What the API works on, with payments, a Redis that keeps refusals, and models."""
    link = RedisClient(redis_url, timeout_s=20.0)
    refused = RefusedRequests(RedisState(link, Keyspace(key_prefix)), RefusalSettings())
    shown = PaymentOversight(payments.events, payments.comparisons)
    more = {"payments": payments, "payment_oversight": shown}
    yield replace(bare_services, refused=refused, models=lambda plan: MODELS, windows=windows, **more)
    await link.close()


@pytest.fixture
async def console(services: Services, billing: Billing, people: People) -> AsyncIterator[Console]:
    persons = {name: await new_user(billing, f"{name}@example.com") for name in ("owner", "stranger", "operator")}
    organization = await new_organization(billing, "Acme", persons["owner"], plan="starter")
    await new_organization(billing, "Other", persons["stranger"])
    for role in ("viewer", "member", "admin"):
        persons[role] = await new_user(billing, f"{role}@example.com")
        await join(billing, organization, persons[role], role)  # type: ignore[arg-type]
    await billing.database.execute(
        "UPDATE users SET operator = true, totp_secret = 'x', totp_confirmed_at = now() WHERE id = $1",
        persons["operator"],
    )
    client: Any = None  # that of `serving`
    async with serving(services, Console(client, billing, services, people, organization, persons)) as served:
        yield served
