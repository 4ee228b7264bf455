"""Everything that talks to the stores, made from settings: for commands and for serving alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.accounts.lots import Lots
from billing.accounts.member_limits import MemberLimits
from billing.accounts.repricing import Repricing
from billing.addresses import Addresses
from billing.api.live_windows import live_windows
from billing.api.services import Services
from billing.attempts import ADDRESSES_MAX, AttemptLimits, Attempts, counted_in_redis
from billing.audit import AuditLog
from billing.budgets.budgets import Budgets
from billing.database.connection import Database
from billing.exports.cursor import Exports
from billing.holds.cache import recognised
from billing.holds.engine import Engine
from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import DEFAULT_PREFIX
from billing.keys.keys import ApiKeys
from billing.keys.principals import Principals
from billing.keys.secrets import secret_digest, well_formed
from billing.ledger.reports import Reports
from billing.metering.features import Features
from billing.notices.endpoints import EndpointRules, Endpoints
from billing.notices.exhausted import ExhaustedNotices
from billing.payments.assembly import PaymentParts, deployment_of
from billing.payments.auto_recharge import Alerts
from billing.payments.coupons import Coupons
from billing.refused_requests import RefusedRequests, RefusedRules
from gateway.bills import make_bills
from gateway.config.models import unknown_models
from gateway.config.plan_follower import PlanFollower
from gateway.config.settings import Settings
from gateway.identity import Identity, make_identity
from gateway.metering import POOL_SIZE, STATEMENT_S, make_collector, make_meters
from gateway.outgoing import Outgoing, delivery_here
from gateway.payments import links_of, open_payments, payment_services
from gateway.proxy.target_health import provider_list
from gateway.stores import OpenStores, new_id, open_engine

if TYPE_CHECKING:
    from billing.collect.collector import Collector
    from billing.holds.redis.state import RedisState
    from billing.identity.people import People
    from billing.plans import Plans
    from billing.price_table import PriceTable
    from billing.principals import Principal
    from billing.shapes.quotas import WindowShape
    from gateway.config.defaults import Limits
    from gateway.config.settings import Settings


def refused_rules(defaults: Limits) -> RefusedRules:
    """Return the bounds of what is kept of refusals, from the configuration's."""
    return RefusedRules(
        per_key=defaults.refusals_per_key,
        keys=defaults.refusals_keys,
        age_s=defaults.refusals_kept_s,
        pending=defaults.refusals_pending,
    )


def make_attempts(settings: Settings, redis: RedisState) -> Attempts:
    """Return what counts wrong keys by address, in Redis for all gateways."""
    defaults = settings.defaults
    window_s = defaults.failed_attempts_window_s
    return Attempts(
        counted_in_redis(redis, window_s),
        Addresses(settings.trusted_proxies),
        AttemptLimits(defaults.failed_attempts, window_s, max(1, defaults.postgres_pool_size - 1)),
        time.monotonic,
        ADDRESSES_MAX,
    )


@dataclass(slots=True)
class InForce:
    """The prices that requests are priced by now: those of the start, until the file has others."""

    prices: PriceTable

    def now(self) -> PriceTable:
        """Return the prices of this moment."""
        return self.prices


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that talks to the stores. `database` is the ledger's pool, which no call of the API uses. The
    `follower` has the plans in force, whatever the file here says."""

    settings: Settings
    follower: PlanFollower
    database: Database
    redis_client: RedisClient
    engine: Engine
    accounts: Accounts
    principals: Principals
    api_keys: ApiKeys
    grants: Grants
    reports: Reports
    refused: RefusedRequests
    services: Services
    people: People
    in_force: InForce
    attempts: Attempts
    collector: Collector
    deployment: str
    admin_api_key: str = field(repr=False)


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    database_url: str,
    redis_url: str,
    embedded: bool,
    key_prefix: str = DEFAULT_PREFIX,
    gateway_id: str | None = None,
) -> AsyncIterator[Runtime]:
    """Yield services on open stores; nothing is served and nothing runs in the background. `gateway_id` is as for
    `open_engine`.

    Raises `DatabaseError` when Postgres is away or has not been migrated.
    """
    defaults = settings.defaults
    async with open_engine(
        settings,
        database_url=database_url,
        redis_url=redis_url,
        embedded=embedded,
        key_prefix=key_prefix,
        gateway_id=gateway_id,
    ) as stores:
        apart = _Apart(
            of_api=stores.database.another(size=defaults.api_pool_size, timeout_s=defaults.postgres_timeout_s),
            of_keys=stores.database.another(size=1, timeout_s=defaults.postgres_timeout_s),
            of_collection=stores.database.another(size=POOL_SIZE, timeout_s=STATEMENT_S),
            ask=Outgoing(defaults.issuer_timeout_s, defaults.issuer_answer_bytes),
        )
        try:
            runtime = _runtime(settings, stores, apart, await deployment_of(stores.database))
            try:
                yield runtime
            finally:
                runtime.people.passwords.close()
                await runtime.collector.close()
                if runtime.services.payments is not None:
                    await runtime.services.payments.provider.close()
        finally:
            await apart.close()


@dataclass(frozen=True, slots=True)
class _Apart:
    """What is open beside the engine's stores. Calls of the API have connections of their own (`of_api`): however many
    of them wait in Postgres, the ledger's are free for admissions and debits. So have signing keys (`of_keys`), which
    every token waits for."""

    of_api: Database
    of_keys: Database
    of_collection: Database
    ask: Outgoing

    async def close(self) -> None:
        """Close all of it."""
        await self.ask.close()
        await self.of_collection.close()
        await self.of_keys.close()
        await self.of_api.close()


def _runtime(settings: Settings, stores: OpenStores, apart: _Apart, deployment: str) -> Runtime:
    """Make the services on open stores."""
    engine, plans = stores.engine, stores.follower.plans
    in_force = InForce(settings.prices)
    identity = make_identity(settings, apart.of_api, apart.of_keys, apart.ask, plans, engine.change_notifier, new_id)
    services = _services(settings, apart.of_api, engine, plans, identity, in_force)
    parts = PaymentParts(
        *(apart.of_api, services.accounts, services.grants, engine.change_notifier, plans, new_id, deployment),
        gateway_id=engine.gateway_id,
    )
    collector = make_collector(settings, apart.of_collection, engine, in_force.now, new_id)
    services = replace(services, collector=collector, **payment_services(open_payments(settings, parts)))
    return Runtime(
        settings=settings,
        follower=stores.follower,
        database=stores.database,
        redis_client=stores.client,
        engine=engine,
        accounts=services.accounts,
        principals=stores.principals,
        api_keys=services.keys,
        grants=services.grants,
        reports=services.reports,
        refused=services.refused,
        services=services,
        people=identity.people,
        in_force=in_force,
        attempts=services.attempts,
        collector=collector,
        deployment=deployment,
        admin_api_key=services.admin_api_key or "",
    )


def _services(
    settings: Settings, database: Database, engine: Engine, plans: Plans, identity: Identity, in_force: InForce
) -> Services:
    """Make what the billing API works on."""
    defaults, effects = settings.defaults, engine.change_notifier
    admin_key, service_key = settings.admin_api_key, settings.service_api_key
    grants, reports = Grants(database, effects, new_id), Reports(database)
    links = links_of(settings, plans)
    return Services(
        accounts=Accounts(database, plans, effects, new_id),
        users=identity.people.users,
        organizations=identity.organizations,
        members=identity.members,
        invitations=identity.invitations,
        member_limits=MemberLimits(database, effects),
        keys=ApiKeys(database, effects, new_id),
        grants=grants,
        lots=Lots(database),
        alerts=Alerts(database, settings.payments.low_balance_nano),
        budgets=Budgets(database, reports.sums, new_id, time.time),
        coupons=Coupons(database, grants, effects, identity.people.codes, new_id, utc_now),
        repricing=Repricing(database, effects, new_id, in_force.now),
        reports=reports,
        bills=make_bills(settings, database),
        audit=AuditLog(database),
        exports=Exports(database),
        features=Features(database, plans, defaults.default_plan, utc_now),
        windows=partial(_windows, engine, Principals(database, plans, defaults.default_plan)),
        upgrade_url=links.upgrade_url,
        setup_url=links.setup_url,
        keys_url=links.keys_url,
        endpoints=Endpoints(
            database, new_id, EndpointRules(defaults.webhook_endpoints, private=defaults.webhook_private_addresses)
        ),
        sign_in=identity.sign_in,
        credentials=identity.credentials,
        refused=RefusedRequests(engine.redis, refused_rules(defaults), on_written=ExhaustedNotices(database).notify),
        effects=effects,
        plans=plans,
        credits_per_usd=defaults.credits_per_usd,
        customers_see=defaults.customers_see,
        grant_confirm_usd=defaults.grant_confirm_usd,
        sends_mail=delivery_here(settings) is not None,
        authenticate=_authenticator(engine),
        known=partial(recognised, engine.cache),
        attempts=make_attempts(settings, engine.redis),
        clock=time.time,
        service_api_key=None if service_key is None else service_key.reveal(),
        meters=make_meters(settings, database, engine, in_force.now, links_of(settings, plans), new_id),
        admin_api_key=None if admin_key is None else admin_key.reveal(),
        unknown_models=lambda names: unknown_models(
            settings.models, settings.providers, in_force.prices, names, time.time()
        ),
        providers=partial(provider_list, settings, engine.redis),
        default_plan=defaults.default_plan,
        keys_per_user=defaults.keys_per_user,
        rotation_grace_s=defaults.rotation_grace_s,
        new_id=new_id,
        sessions=identity.sessions,
        browsers=identity.browsers,
        oidc=identity.oidc,
        person=identity.sessions.caller,
        image=settings.image,
        max_body_bytes=settings.max_body_bytes,
        request_timeout_s=settings.request_timeout_s,
    )


def _authenticator(engine: Engine) -> Callable[[str], Awaitable[Principal | None]]:
    async def authenticate(secret: str) -> Principal | None:
        found = await engine.cache.get(secret_digest(secret)) if well_formed(secret) else None
        if found is not None and found.usable_key(time.time()):
            engine.cache.used[found.key_id] = None
        return found

    return authenticate


async def _windows(engine: Engine, principals: Principals, account_id: str) -> list[WindowShape]:
    """Return what is left of an account's quotas. Raises `StoreError`."""
    principal = await principals.of_service(account_id, "")
    return [] if principal is None else await live_windows(engine, principal)
