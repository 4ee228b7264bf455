"""The API on a real aiohttp server, over the domain on a database of the test's own."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial

import pytest
from aiohttp import web

from billing.accounts.grants import Lots
from billing.accounts.repricing import Repricing
from billing.api.application import setup
from billing.api.services import Services
from billing.audit import AuditLog
from billing.budgets import Budgets
from billing.exports.worker import Exports
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import Keyspace
from billing.holds.redis.state import RedisState
from billing.identity.browsers import Browsers
from billing.identity.organizations import Invitations, Members, Organizations
from billing.keys.secrets import secret_digest
from billing.metering.features import Features
from billing.notices.endpoints import Endpoints
from billing.payments.balances import Alerts
from billing.payments.coupons import Coupons
from billing.plans import DEFAULT_PLAN
from billing.principals import Principal
from billing.refused_requests import RefusedRequests
from billing.search import Search
from billing.settings import RefusalSettings, WebhookSettings
from billing.traffic.store import Traffic
from tests.billing.api.support import ADMIN_KEY, Api, person_of, serving
from tests.billing.identity.sessions_support import People
from tests.billing.people_support import Registry, registry_of, scim_of
from tests.billing.support import PLANS, PRICES, Billing, attempts_of


@pytest.fixture
def registry(billing: Billing) -> Iterator[Registry]:
    made = registry_of(billing)
    yield made
    made.people.passwords.close()


@pytest.fixture
def people(billing: Billing, registry: Registry) -> People:
    """People whose sessions are those of the API."""
    return People(billing.database, billing.new_id, registry.sessions)


@pytest.fixture
def services(billing: Billing, registry: Registry) -> Services:
    async def authenticate(secret: str) -> Principal | None:
        return await billing.principals.by_digest(secret_digest(secret))

    return Services(
        accounts=billing.accounts,
        users=registry.people.users,
        sign_in=registry.sign_in,
        credentials=registry.credentials,
        person=partial(person_of, billing, registry.sessions.caller),
        member_limits=billing.member_limits,
        organizations=Organizations(billing.database, billing.new_id, DEFAULT_PLAN),
        members=Members(billing.database, billing.change_notifier, 20),
        invitations=Invitations(billing.database, billing.new_id, PLANS, DEFAULT_PLAN),
        scim=scim_of(registry),
        keys=billing.keys,
        grants=billing.grants,
        lots=Lots(billing.database),
        coupons=Coupons(
            billing.database,
            billing.grants,
            billing.change_notifier,
            registry.people.codes,
            billing.new_id,
            now=lambda: datetime.now(UTC),
        ),
        alerts=Alerts(billing.database, 5_000_000_000),
        budgets=Budgets(billing.database, billing.reports.sums, billing.new_id, time.time),
        repricing=Repricing(billing.database, billing.change_notifier, billing.new_id, lambda: PRICES),
        reports=billing.reports,
        traffic=Traffic(billing.database),
        search=Search(billing.database),
        audit=AuditLog(billing.database),
        exports=Exports(billing.database),
        features=Features(billing.database, PLANS, DEFAULT_PLAN, lambda: datetime.now(UTC)),
        endpoints=Endpoints(billing.database, billing.new_id, WebhookSettings()),
        refused=RefusedRequests(RedisState(RedisClient("redis://127.0.0.1:1"), Keyspace()), RefusalSettings()),
        effects=billing.change_notifier,
        plans=PLANS,
        credits_per_usd=1000,
        authenticate=authenticate,
        known=lambda secret: None,
        attempts=attempts_of(1000),
        clock=time.time,
        admin_api_key=ADMIN_KEY,
        default_plan=DEFAULT_PLAN,
        sessions=registry.sessions,
        browsers=Browsers(billing.database, billing.new_id, ADMIN_KEY),
        image="registry.example.com/metergate:sha-0123456789abcdef0123456789abcdef01234567",
        max_body_bytes=64 * 1024,
    )


@pytest.fixture
async def api(services: Services, billing: Billing) -> AsyncIterator[Api]:
    async with serving(services, billing) as client:
        yield client


@pytest.fixture
def outer(services: Services) -> web.Application:
    """An application with another path in addition to those of the API."""
    app = web.Application()

    async def own(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    app.router.add_get("/v1/own", own)
    setup(app, services)
    return app
