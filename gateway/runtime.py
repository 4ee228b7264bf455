"""Everything that talks to the stores, made from settings: for commands and for serving alike."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from ulid import ULID

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.accounts.lots import Lots
from billing.accounts.member_limits import MemberLimits
from billing.accounts.repricing import Repricing
from billing.addresses import Addresses
from billing.api.application import setup
from billing.api.services import Services
from billing.attempts import ADDRESSES_MAX, AttemptLimits, Attempts, counted_in_redis
from billing.audit import AuditLog
from billing.database.connection import Database
from billing.holds.cache import CacheSettings, recognised
from billing.holds.engine import Engine, EngineSettings
from billing.holds.redis.client import RedisClient
from billing.holds.redis.state import DEFAULT_PREFIX, Keyspace
from billing.holds.service import HoldSettings
from billing.identity.codes import CodeRules, Codes
from billing.identity.credentials import Credentials
from billing.identity.invitations import Invitations
from billing.identity.issuers import ForeignRules, ForeignTokens, KeySet
from billing.identity.members import Members
from billing.identity.oidc import OidcSignIn
from billing.identity.organizations import Bounds, Organizations, found
from billing.identity.passwords import Passwords
from billing.identity.people import People
from billing.identity.sessions import Sessions
from billing.identity.shown import ShownTokens
from billing.identity.sign_in import SignIn
from billing.identity.signing_keys import SigningKeys, TokenRules
from billing.identity.subjects import Subjects
from billing.identity.users import Users
from billing.keys.keys import ApiKeys
from billing.keys.principals import Principals
from billing.keys.secrets import secret_digest, well_formed
from billing.ledger.catalogue import newest_revision
from billing.ledger.reports import Reports
from billing.refused import RefusedRequests, RefusedRules
from billing.shares import parse_share
from gateway.config.models import unknown_models
from gateway.config.plan_follower import PlanFollower
from gateway.config.settings import Settings
from gateway.metering import make_meters
from gateway.outgoing import Outgoing
from gateway.proxy.target_health import provider_list
from gateway.server.refusals import Links

if TYPE_CHECKING:
    from billing.audit import Actor
    from billing.database.connection import Connection
    from billing.effects import Effects
    from billing.holds.redis.state import RedisState
    from billing.identity.organizations import Organization
    from billing.identity.sign_in import Found
    from billing.price_table import PriceTable
    from billing.principals import Principal
    from gateway.config.defaults import Limits

logger = logging.getLogger(__name__)

EMBEDDED_PARTITIONS: Final = 1
PRODUCTION_PARTITIONS: Final = 64
DAY_S: Final = 86_400


@dataclass(slots=True)
class InForce:
    """The prices that requests are priced by now: those of the start, until the file has others."""

    prices: PriceTable


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that talks to the stores. `api_app` is the whole billing API, for use inside a process; the
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
    api_app: web.Application
    attempts: Attempts
    admin_api_key: str = field(repr=False)


def new_id() -> str:
    """Return a ULID (https://github.com/ulid/spec), 26 characters."""
    return str(ULID())


def lookup_wait_s(defaults: Limits) -> float:
    """Return how long a request waits for its key to be looked up: as long as for its admission, where it waits for
    that."""
    return defaults.admission_wait_ms / 1000 or defaults.postgres_timeout_s


def engine_settings(defaults: Limits, spool_folder: Path | None = None) -> EngineSettings:
    """Return the engine's bounds from the configuration's."""
    return EngineSettings(
        holds=HoldSettings(
            batch_items=defaults.batch_items,
            max_unsettled=defaults.max_unsettled,
            redis_timeout_s=defaults.redis_timeout_ms / 1000,
            settle_timeout_s=defaults.settle_timeout_ms / 1000,
            ledger_timeout_s=defaults.postgres_timeout_s,
            admission_wait_s=defaults.admission_wait_ms / 1000,
            elastic_millionths=parse_share(defaults.elastic_share),
            elastic_output_tokens=defaults.elastic_output_tokens,
            queue_requests=defaults.admission_queue_requests,
        ),
        cache=CacheSettings(
            entries=defaults.principal_cache_entries,
            fresh_s=defaults.principal_cache_s,
            unknown_entries=defaults.negative_cache_entries,
            unknown_s=defaults.negative_cache_s,
            lookups=max(1, defaults.postgres_pool_size - 1),
            wait_s=lookup_wait_s(defaults),
        ),
        lease_s=defaults.lease_s,
        stall_s=defaults.stall_s,
        expired_hold=defaults.expired_hold,
        default_plan=defaults.default_plan,
        ledger_batch_rows=defaults.ledger_batch_rows,
        ledger_flush_s=defaults.ledger_flush_ms / 1000,
        spool_folder=spool_folder,
    )


def token_rules(settings: Settings) -> TokenRules:
    """Return how tokens of people are signed and how long they live, from the configuration."""
    defaults, secret = settings.defaults, settings.jwt_secret
    return TokenRules(
        access_s=settings.jwt_expiry_hours * 3600,
        refresh_s=settings.refresh_token_expiry_days * DAY_S,
        grace_s=defaults.refresh_grace_s,
        rotation_s=defaults.signing_key_days * DAY_S,
        secret=None if secret is None else secret.reveal(),
        sessions=defaults.sessions_per_user,
    )


def _oidc_sign_in(
    settings: Settings, ask: Outgoing, keys: SigningKeys, sessions: Sessions, subjects: Subjects
) -> OidcSignIn | None:
    """Return what signs people in elsewhere; None where no provider is configured."""
    identity = settings.identity
    if identity.public_url is None or not identity.providers:
        return None
    return OidcSignIn(
        *(identity.providers, identity.public_url, settings.frontend_url),
        ask=ask,
        keys=keys,
        sessions=sessions,
        subjects=subjects,
        clock=time.monotonic,
        now=time.time,
    )


def _foreign_tokens(settings: Settings, ask: Outgoing) -> ForeignTokens | None:
    """Return what verifies tokens of other issuers; None where none is configured."""
    secret = settings.auth_cookie_secret
    if settings.auth_audience is None or (settings.auth_base_url is None and secret is None):
        return None
    rules = ForeignRules(
        settings.auth_audience,
        settings.auth_internal_audience,
        settings.auth_base_url,
        None if secret is None else secret.reveal(),
    )
    url = settings.auth_base_url
    keys = None if url is None else KeySet(f"{url}/.well-known/jwks.json", ask, time.monotonic)
    return ForeignTokens(rules, keys, time.time)


def refused_rules(defaults: Limits) -> RefusedRules:
    """Return the bounds of what is kept of refusals, from the configuration's."""
    return RefusedRules(
        per_key=defaults.refusals_per_key,
        keys=defaults.refusals_keys,
        age_s=defaults.refusals_kept_s,
        pending=defaults.refusals_pending,
    )


async def partition_count(database: Database, wanted: int) -> int:
    """Return the installation's number of partitions: what the first gateway wanted, for ever. Raises
    `DatabaseError`."""
    count = await database.value(
        "UPDATE installation SET redis_partitions = coalesce(redis_partitions, $1) RETURNING redis_partitions", wanted
    )
    if count != wanted:
        logger.warning("this installation has %d partitions, not %d: the number is fixed once", count, wanted)
    return int(count)


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
    """Yield services on open stores; nothing is served and nothing runs in the background. `gateway_id` is a new ULID,
    for one process and no other; None: one is made.

    Raises `DatabaseError` when Postgres is away or has not been migrated.
    """
    defaults = settings.defaults
    database = Database(
        database_url,
        size=defaults.postgres_pool_size,
        timeout_s=defaults.postgres_timeout_s,
        lock_wait_s=defaults.ledger_lock_ms / 1000,
    )
    client = RedisClient(
        redis_url, timeout_s=defaults.redis_timeout_ms / 1000, connect_timeout_s=defaults.connect_timeout_s
    )
    of_keys = database.another(size=1, timeout_s=defaults.postgres_timeout_s)
    ask = Outgoing(defaults.issuer_timeout_s, defaults.issuer_answer_bytes)
    try:
        follower = PlanFollower(database, settings, take_over=embedded)
        await follower.follow(await newest_revision(database))
        wanted = defaults.redis_partitions or (EMBEDDED_PARTITIONS if embedded else PRODUCTION_PARTITIONS)
        keyspace = Keyspace(key_prefix, await partition_count(database, wanted))
        signing_keys = SigningKeys(of_keys, token_rules(settings), new_id, time.monotonic)
        runtime = _runtime(settings, follower, database, client, keyspace, gateway_id or new_id(), signing_keys, ask)
        try:
            yield runtime
        finally:
            runtime.people.passwords.close()
    finally:
        await ask.close()
        await client.close()
        await of_keys.close()
        await database.close()


def _runtime(
    settings: Settings,
    follower: PlanFollower,
    database: Database,
    client: RedisClient,
    keyspace: Keyspace,
    gateway_id: str,
    signing_keys: SigningKeys,
    ask: Outgoing,
) -> Runtime:
    """Make the engine and the services on open stores."""
    defaults, plans = settings.defaults, follower.plans
    principals = Principals(database, plans, defaults.default_plan, follower.follow)
    engine = Engine(
        *(database, client, keyspace, plans, principals.load, gateway_id),
        engine_settings(defaults, settings.spool_dir),
    )
    follower.changed = engine.plans_changed
    in_force = InForce(settings.prices)
    links = Links(settings.frontend_url, plans)
    users = Users(database, new_id, settings.identity.approval)
    bounds = Bounds(defaults.organizations_per_user, defaults.invitations_per_day, defaults.invitation_sends)
    subjects = Subjects(database, users, _founder(defaults.default_plan))
    shown = ShownTokens(database, signing_keys, _foreign_tokens(settings, ask), subjects)
    sessions = Sessions(database, signing_keys, new_id, shown)
    oidc = _oidc_sign_in(settings, ask, signing_keys, sessions, subjects)
    people = _people(settings, database, users, sessions, engine.change_notifier)
    services = Services(
        accounts=Accounts(database, plans, engine.change_notifier, new_id),
        users=people.users,
        organizations=Organizations(database, new_id, defaults.default_plan, bounds),
        members=Members(database, engine.change_notifier, bounds.owned),
        invitations=Invitations(
            *(database, new_id, plans, defaults.default_plan, bounds), frontend_url=settings.frontend_url
        ),
        member_limits=MemberLimits(database, engine.change_notifier),
        keys=ApiKeys(database, engine.change_notifier, new_id),
        grants=Grants(database, engine.change_notifier, new_id),
        lots=Lots(database),
        repricing=Repricing(database, engine.change_notifier, new_id, lambda: in_force.prices),
        reports=Reports(database),
        audit=AuditLog(database),
        sign_in=SignIn(people, _founder(defaults.default_plan)),
        credentials=Credentials(people),
        refused=RefusedRequests(engine.redis, refused_rules(defaults)),
        effects=engine.change_notifier,
        plans=plans,
        credits_per_usd=defaults.credits_per_usd,
        authenticate=_authenticator(engine),
        known=partial(recognised, engine.cache),
        attempts=_attempts(settings, engine.redis),
        clock=time.time,
        service_api_key=settings.service_api_key.reveal() if settings.service_api_key is not None else None,
        meters=make_meters(settings, database, engine, lambda: in_force.prices, links, new_id),
        admin_api_key=settings.admin_api_key.reveal() if settings.admin_api_key is not None else None,
        unknown_models=lambda names: unknown_models(
            settings.models, settings.providers, in_force.prices, names, time.time()
        ),
        providers=partial(provider_list, settings, engine.redis),
        default_plan=defaults.default_plan,
        keys_per_user=defaults.keys_per_user,
        rotation_grace_s=defaults.rotation_grace_s,
        new_id=new_id,
        sessions=sessions,
        oidc=oidc,
        person=sessions.caller,
        image=settings.image,
        max_body_bytes=settings.max_body_bytes,
        request_timeout_s=settings.request_timeout_s,
    )
    api_app = web.Application(client_max_size=settings.max_body_bytes)
    setup(api_app, services)
    return Runtime(
        settings,
        follower,
        database,
        client,
        engine,
        services.accounts,
        principals,
        services.keys,
        services.grants,
        services.reports,
        services.refused,
        services,
        people,
        in_force,
        api_app,
        services.attempts,
        services.admin_api_key or "",
    )


def _people(settings: Settings, database: Database, users: Users, sessions: Sessions, effects: Effects) -> People:
    """Make what people register, sign in and are changed by."""
    defaults = settings.defaults
    rules = CodeRules(
        mails_per_address=defaults.mails_per_address,
        mails_per_network=defaults.mails_per_network,
        failures=defaults.sign_in_failures,
        wait_s=defaults.sign_in_wait_s,
        most_wait_s=defaults.sign_in_most_wait_s,
    )
    return People(
        database,
        users,
        Codes(database, new_id, rules),
        Passwords(at_once=defaults.passwords_at_once),
        sessions,
        effects,
        new_id,
        time.time,
    )


def _founder(plan: str) -> Found:
    """Return what makes the personal organization of who registers, on a plan."""

    async def make(connection: Connection, user_id: str, name: str, actor: Actor) -> Organization:
        return await found(connection, new_id, plan, user_id=user_id, name=name, personal=True, actor=actor)

    return make


def _attempts(settings: Settings, redis: RedisState) -> Attempts:
    """Count wrong keys by address, in Redis for all gateways."""
    defaults = settings.defaults
    window_s = defaults.failed_attempts_window_s
    return Attempts(
        counted_in_redis(redis, window_s),
        Addresses(settings.trusted_proxies),
        AttemptLimits(defaults.failed_attempts, window_s, max(1, defaults.postgres_pool_size - 1)),
        time.monotonic,
        ADDRESSES_MAX,
    )


def _authenticator(engine: Engine) -> Callable[[str], Awaitable[Principal | None]]:
    async def authenticate(secret: str) -> Principal | None:
        return await engine.cache.get(secret_digest(secret)) if well_formed(secret) else None

    return authenticate
