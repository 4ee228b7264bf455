"""Everything that talks to the stores, made from settings: for commands and for serving alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from billing.accounts.accounts import Accounts, MemberLimits
from billing.accounts.grants import Grants, Lots
from billing.accounts.repricing import Repricing
from billing.addresses import Addresses
from billing.api.attempts import ADDRESSES_MAX, AttemptLimits, Attempts, counted_in_redis
from billing.api.remaining import live_windows
from billing.api.services import Services
from billing.audit import AuditLog
from billing.budgets import Budgets
from billing.database.connection import Database
from billing.database.replica import ReplicatedReads
from billing.exports.worker import Exports
from billing.holds.cache import recognised
from billing.holds.redis.layout import DEFAULT_PREFIX
from billing.identity.passwords import SignInLimit
from billing.keys.keys import ApiKeys, Principals
from billing.keys.secrets import secret_digest, well_formed
from billing.ledger.reports import Reports
from billing.ledger.sums import UsageSums
from billing.metering.features import Features
from billing.notices.endpoints import Endpoints
from billing.notices.exhausted import ExhaustedNotices
from billing.pages import new_id
from billing.payments.assembly import PaymentParts, deployment_of
from billing.payments.balances import Alerts
from billing.payments.coupons import Coupons
from billing.refused_requests import RefusedRequests
from billing.search import Search
from billing.traffic.store import Traffic
from gateway.config.providers import unknown_models
from gateway.config.secret import revealed
from gateway.proxy.target_health import provider_list
from gateway.runtime.body_logs import told_of_logs
from gateway.runtime.identity import Identity, make_identity
from gateway.runtime.metering import POOL_SIZE, STATEMENT_S, make_collector, make_meters
from gateway.runtime.outgoing import Outgoing, delivery_here
from gateway.runtime.payments import links_of, make_bills, open_payments, payment_services
from gateway.runtime.runtime import InForce, Runtime
from gateway.runtime.stores import OpenStores, open_engine

if TYPE_CHECKING:
    from billing.holds.engine import Engine
    from billing.holds.redis.state import RedisState
    from billing.plans import Plans
    from billing.principals import Principal
    from billing.schemas.quotas import WindowShape
    from gateway.config.settings import Settings


def _reads_of_reports(settings: Settings, primary: Database) -> ReplicatedReads | None:
    """Return what reads reports from a replica, where one is configured."""
    stores, url = settings.defaults.stores, settings.database_replica_url
    if url is None:
        return None
    pool = primary.another(size=stores.api_pool_size, timeout_s=stores.postgres_timeout_s)
    return ReplicatedReads(url.reveal(), pool, size=stores.api_pool_size, most_lag_s=stores.replica_lag_s)


def make_attempts(settings: Settings, redis: RedisState) -> Attempts:
    """Return what counts wrong keys by address, in Redis for all gateways."""
    defaults = settings.defaults
    window_s = defaults.stores.failed_attempts_window_s
    return Attempts(
        counted_in_redis(redis, window_s),
        Addresses(settings.trusted_proxies),
        AttemptLimits(defaults.stores.failed_attempts, window_s, max(1, defaults.stores.postgres_pool_size - 1)),
        time.monotonic,
        ADDRESSES_MAX,
    )


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
        pools = _Pools(
            of_api=stores.database.another(
                size=defaults.stores.api_pool_size, timeout_s=defaults.stores.postgres_timeout_s
            ),
            of_reports=_reads_of_reports(settings, stores.database),
            of_keys=stores.database.another(size=1, timeout_s=defaults.stores.postgres_timeout_s),
            of_collection=stores.database.another(size=POOL_SIZE, timeout_s=STATEMENT_S),
            ask=Outgoing(defaults.sign_in.issuer_timeout_s, defaults.sign_in.issuer_answer_bytes),
        )
        try:
            runtime = _runtime(settings, stores, pools, await deployment_of(stores.database))
            try:
                yield runtime
            finally:
                runtime.people.passwords.close()
                await runtime.collector.close()
                if runtime.services.payments is not None:
                    await runtime.services.payments.provider.close()
        finally:
            await pools.close()


@dataclass(frozen=True, slots=True)
class _Pools:
    """What is open beside the engine's stores. Calls of the API have connections of their own (`of_api`): however many
    of them wait in Postgres, the ledger's are free for admissions and debits. So have signing keys (`of_keys`), which
    every token waits for. Reports are read from a replica (`of_reports`) where there is one."""

    of_api: Database
    of_reports: ReplicatedReads | None
    of_keys: Database
    of_collection: Database
    ask: Outgoing

    async def close(self) -> None:
        """Close all of it."""
        await self.ask.close()
        await self.of_collection.close()
        await self.of_keys.close()
        if self.of_reports is not None:
            await self.of_reports.close()
        await self.of_api.close()


def _runtime(settings: Settings, stores: OpenStores, pools: _Pools, deployment: str) -> Runtime:
    """Make the services on open stores."""
    engine, plans = stores.engine, stores.follower.plans
    in_force = InForce(settings.prices)
    identity = make_identity(settings, pools.of_api, pools.of_keys, pools.ask, plans, engine.change_notifier)
    services = _services(settings, pools, engine, plans, identity, in_force)
    parts = PaymentParts(
        pools.of_api,
        services.accounts,
        services.grants,
        engine.change_notifier,
        plans,
        new_id,
        deployment,
        gateway_id=engine.gateway_id,
    )
    collector = make_collector(settings, pools.of_collection, engine, in_force.now)
    services = replace(
        services,
        collector=collector,
        body_logs=partial(told_of_logs, settings.body_logs),
        **payment_services(open_payments(settings, parts)),
    )
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
        replica=pools.of_reports,
        admin_api_key=services.admin_api_key or "",
    )


def _services(
    settings: Settings, pools: _Pools, engine: Engine, plans: Plans, identity: Identity, in_force: InForce
) -> Services:
    """Make what the billing API works on."""
    database, defaults, effects = pools.of_api, settings.defaults, engine.change_notifier
    grants, links = Grants(database, effects, new_id), links_of(settings, plans)
    return Services(
        accounts=Accounts(database, plans, effects, new_id),
        users=identity.people.users,
        organizations=identity.organizations,
        members=identity.members,
        invitations=identity.invitations,
        scim=identity.scim,
        member_limits=MemberLimits(database, effects),
        keys=ApiKeys(database, effects, new_id),
        grants=grants,
        lots=Lots(database),
        alerts=Alerts(database, settings.payments.low_balance_nano),
        budgets=Budgets(database, UsageSums(database), new_id, time.time),
        coupons=Coupons(database, grants, effects, identity.people.codes, new_id, utc_now),
        repricing=Repricing(database, effects, new_id, in_force.now),
        reports=Reports(pools.of_reports or database),
        traffic=Traffic(database),
        search=Search(database),
        bills=make_bills(settings, database),
        audit=AuditLog(database),
        exports=Exports(database),
        features=Features(database, plans, defaults.accounts.default_plan, utc_now),
        windows=partial(_windows, engine, Principals(database, plans, defaults.accounts.default_plan)),
        upgrade_url=links.upgrade_url,
        setup_url=links.setup_url,
        operator_url=links.frontend_url,
        keys_url=links.keys_url,
        endpoints=Endpoints(database, new_id, defaults.webhooks),
        sign_in=identity.sign_in,
        credentials=identity.credentials,
        refused=RefusedRequests(engine.redis, defaults.refusals, on_written=ExhaustedNotices(database).notify),
        effects=effects,
        plans=plans,
        credits_per_usd=defaults.services.credits_per_usd,
        sends_mail=delivery_here(settings) is not None,
        sign_in_limit=SignInLimit(defaults.sign_in.sign_ins_at_once),
        authenticate=_authenticator(engine),
        known=partial(recognised, engine.cache),
        attempts=make_attempts(settings, engine.redis),
        clock=time.time,
        meters=make_meters(settings, database, engine, in_force.now, links),
        unknown_models=partial(_unknown_models, settings, in_force),
        providers=partial(provider_list, settings, engine.redis),
        **structs.asdict(defaults.accounts),
        sessions=identity.sessions,
        browsers=identity.browsers,
        oidc=identity.oidc,
        person=identity.sessions.caller,
        **_of_settings(settings),
    )


def _of_settings(settings: Settings) -> dict[str, Any]:
    return {
        "body_logs": partial(told_of_logs, settings.body_logs),
        "service_api_key": revealed(settings.service_api_key),
        "admin_api_key": revealed(settings.admin_api_key),
        "image": settings.image,
        "max_body_bytes": settings.max_body_bytes,
        "request_timeout_s": settings.request_timeout_s,
    }


def _unknown_models(settings: Settings, in_force: InForce, names: Iterable[str]) -> list[str]:
    """Return which of some names lead to no model now."""
    return unknown_models(settings.models, settings.providers, in_force.prices, names, time.time())


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
