"""A whole gateway on the real stores, served on loopback inside the test's event loop."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from argon2 import PasswordHasher
from ulid import ULID

from gateway.app import serving
from gateway.config.defaults import Defaults
from gateway.config.settings import ProviderConfig, Secret, Settings
from gateway.endpoints.health import Health
from gateway.metrics.registry import Metrics
from gateway.proxy.handler import Proxy
from gateway.runtime.runtime import Runtime
from gateway.runtime.wiring import open_runtime
from gateway.server.edge import EdgeRunner
from gateway.server.listening import address_of, bind
from gateway.server.plain import PlainRunner
from tests.support.buckets import serving_bucket
from tests.support.databases import Databases
from tests.support.shipped import shipped_settings

ADMIN_KEY = "admin-key-of-all-the-tests"
# A store or a provider that is slow because the machine is busy is not silent, who waits for it not refused, and no
# gateway dead; a test of silence says its own bounds.
OF_TESTS = {
    "ledger_flush_ms": 20,
    "redis_timeout_ms": 60_000,
    "settle_timeout_ms": 60_000,
    "admission_wait_ms": 60_000,
    "connect_timeout_s": 60,
    "postgres_timeout_s": 60,
    "lease_s": 30,
    "postgres_pool_size": 2,
    "api_pool_size": 2,
}


@dataclass
class Gateway:
    """A gateway that serves, and what a test does to it and asks of it."""

    url: str
    runtime: Runtime
    session: aiohttp.ClientSession
    proxy: Proxy
    app: web.Application
    runner: web.BaseRunner
    health: Health
    keys: list[str] = field(default_factory=list)

    async def customer(
        self, balance_usd: str = "5.00", *, account: dict[str, Any] | None = None, **key: Any
    ) -> "Customer":
        """A new account with this balance and a key of it, made through the admin API."""
        made = await self.admin("POST", "/accounts", {"name": "Test", "plan": "enterprise", **(account or {})})
        if balance_usd != "0":
            grant = {"amount_usd": balance_usd, "idempotency_key": str(ULID())}
            await self.admin("POST", f"/accounts/{made['id']}/grants", grant)
        created = await self.admin("POST", "/keys", {"account_id": made["id"], "name": "test", **key})
        return Customer(self, made["id"], created["id"], created["key"])

    async def person(self, account_id: str) -> str:
        """An access token of a new person, who owns an organization that has this account."""
        user_id, database = f"usr_{ULID()}", self.runtime.database
        await database.execute(
            "WITH person AS (INSERT INTO users (id, email, status) VALUES ($1, $2, 'active')), "
            "org AS (INSERT INTO organizations (id, slug, name, account_id) VALUES ($3, $4, 'Test', $5)) "
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($3, $1, 'owner')",
            user_id,
            f"{user_id.lower()}@example.com",
            f"org_{ULID()}",
            str(ULID()).lower(),
            account_id,
        )
        sessions = self.runtime.services.sessions
        async with sessions.transaction() as connection:
            pair = await sessions.start(connection, user_id)
        return pair.access_token

    async def admin(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        headers = {"X-Admin-Key": ADMIN_KEY}
        async with self.session.request(method, f"{self.url}/api/admin{path}", json=body, headers=headers) as answer:
            assert answer.status == status or (status is None and answer.status < 300), await answer.text()
            return await answer.json() if answer.content_type == "application/json" else None

    async def metrics(self) -> bytes:
        """What Prometheus is shown."""
        async with self.session.get(f"{self.url}/metrics", headers={"X-Admin-Key": ADMIN_KEY}) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/plain"
            return await answer.read()

    async def flush(self) -> None:
        """Bring every settled debit to Postgres now."""
        await self.runtime.engine.outbox.flush()


@dataclass
class Customer:
    """An account and one key of it."""

    gateway: Gateway
    account_id: str
    key_id: str
    key: str
    user_id: str | None = None

    def post(self, path: str = "/v1/chat/completions", body: Any = None, **options: Any) -> Any:
        """An aiohttp request, to be used with `async with`."""
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        if body is not None:
            options["json"] = body
        return self.gateway.session.post(self.gateway.url + path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return self.gateway.session.get(self.gateway.url + path, headers=headers, **options)

    async def balance(self) -> dict[str, Any]:
        async with self.get("/api/account/balance") as answer:
            assert answer.status == 200
            return dict(await answer.json())

    async def events(self) -> list[dict[str, Any]]:
        """Usage events in the ledger, oldest first."""
        await self.gateway.flush()
        async with self.get("/api/account/usage/events") as answer:
            assert answer.status == 200
            return list(reversed((await answer.json())["data"]))


def chat(content: str = "Say something.", **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}


@asynccontextmanager
async def run(runner: web.BaseRunner) -> AsyncIterator[str]:
    """Serve on a free port."""
    await runner.setup()
    try:
        listener = bind("127.0.0.1:0")
        ours = isinstance(runner, EdgeRunner | PlainRunner)
        await (runner.site(listener) if ours else web.SockSite(runner, listener)).start()
        yield f"http://{address_of(listener)}"
    finally:
        await runner.cleanup()


MakeGateway = Callable[..., Awaitable[Gateway]]
Change = Callable[[Settings], Settings]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Upstream = Callable[[Handler], Awaitable[str]]


def impatient(settings: Settings) -> Settings:
    """Settings whose plans let no request wait for running ones: it is refused at once."""
    plans = {plan_id: replace(plan, admission_queue_s=0) for plan_id, plan in settings.plans.items()}
    return replace(settings, plans=plans)


# What a password's hash costs is the subject of no gateway's test.
CHEAP_HASHES = partial(PasswordHasher, time_cost=1, memory_cost=64, parallelism=1)


@asynccontextmanager
async def making_gateways(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[MakeGateway]:
    """Makes gateways that share these stores; keywords replace fields of `Limits`. Of the shipped plans none lets a
    request wait for running ones: a test of waiting brings its own. Hashes of passwords are cheap."""
    async with AsyncExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr("billing.identity.passwords.PasswordHasher", CHEAP_HASHES)
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def make(
            upstream: str | None = None,
            *,
            change: Change | None = None,
            metrics: Metrics | None = None,
            shared_work: bool = True,
            **defaults: Any,
        ) -> Gateway:
            settings = impatient(shipped_settings(ADMIN_KEY))
            settings = replace(settings, defaults=Defaults().having(**{**OF_TESTS, **defaults}))
            if upstream is not None:
                providers = {
                    **settings.providers,
                    "openai": ProviderConfig("openai", "openai", upstream, Secret("sk-upstream")),
                }
                settings = replace(settings, providers=providers)
            if change is not None:
                settings = change(settings)
            runtime = await stack.enter_async_context(
                open_runtime(
                    settings, database_url=database_url, redis_url=redis_url, embedded=True, key_prefix=key_prefix
                )
            )
            served, health = await stack.enter_async_context(serving(runtime, metrics, shared_work=shared_work))
            runner = served.runner(access_log=None, shutdown_timeout=1.0)
            url = await stack.enter_async_context(run(runner))
            return Gateway(url, runtime, session, served.proxy, served.app, runner, health)

        yield make


@pytest.fixture
async def make_gateway(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[MakeGateway]:
    """Makes gateways of this test's own, on its stores; see `making_gateways`."""
    async with making_gateways(database_url, redis_url, key_prefix) as make:
        yield make


@asynccontextmanager
async def provider_at(handler: Handler) -> AsyncIterator[str]:
    """Serve a provider that answers by this; its base URL."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    async with run(web.AppRunner(app, access_log=None, shutdown_timeout=1.0)) as url:
        yield url + "/v1"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Serves a provider of the test's own; answers its base URL."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> str:
            return await stack.enter_async_context(provider_at(handler))

        yield start


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """A bucket of an S3 that a program of its own serves; the variables by which it is found."""
    yield from serving_bucket()


# Gateways of other options are closed, the longest unused first: each has connections and loops.
MOST_SHARED = 4
MakeStores = Callable[[], AbstractAsyncContextManager[MakeGateway]]


@pytest.fixture(scope="session")
def on_stores(databases: Databases, priced_template_database: str, redis_url: str) -> MakeStores:
    """Makes gateways on stores that nobody else has, for what outlives a test."""

    @asynccontextmanager
    async def making() -> AsyncIterator[MakeGateway]:
        name = databases.take(priced_template_database)
        async with making_gateways(databases.url(name), redis_url, f"t{secrets.token_hex(4)}") as make:
            yield make
        databases.leave(name, priced_template_database)

    return making


@dataclass
class SharedGateway:
    """A gateway that tests share, and who answers as its provider now."""

    gateway: Gateway
    stack: AsyncExitStack
    handlers: list[Handler | None]


class SharedGateways:
    """The gateways of a module, by their options: each with stores and a provider of its own."""

    def __init__(self, on_stores: MakeStores) -> None:
        self._on_stores = on_stores
        self._made: dict[Any, SharedGateway] = {}

    async def get(self, handler: Handler | None, options: dict[str, Any]) -> Gateway:
        """The gateway with these options, whose provider answers by `handler` from now on."""
        key = frozenset(options.items())
        shared = self._made.pop(key, None) or await self._make(**options)
        self._made[key] = shared
        shared.handlers[:] = [handler]
        await self.close(MOST_SHARED)
        return shared.gateway

    async def close(self, most: int = 0) -> None:
        """Close all but the last used."""
        while len(self._made) > most:
            await self._made.pop(next(iter(self._made))).stack.aclose()

    async def close_busy(self) -> None:
        """Close those in which a test has left a request."""
        for key in [key for key, shared in self._made.items() if shared.gateway.runtime.engine.holds.live]:
            await self._made.pop(key).stack.aclose()

    async def _make(self, at: Callable[[str], Change] | None = None, **options: Any) -> SharedGateway:
        handlers: list[Handler | None] = []

        async def serve(request: web.Request) -> web.StreamResponse:
            (handler,) = handlers
            assert handler is not None, "this test has no provider"
            return await handler(request)

        async with AsyncExitStack() as stack:
            make = await stack.enter_async_context(self._on_stores())
            url = await stack.enter_async_context(provider_at(serve))
            if at is not None:
                options["change"] = at(url)
            return SharedGateway(await make(url, **options), stack.pop_all(), handlers)


@pytest.fixture(scope="module")
async def shared_gateways(on_stores: MakeStores) -> AsyncIterator[SharedGateways]:
    made = SharedGateways(on_stores)
    yield made
    await made.close()


GatewayOf = Callable[..., Awaitable[Gateway]]
CustomerOf = Callable[..., Awaitable[Customer]]


@pytest.fixture
async def gateway_of(shared_gateways: SharedGateways) -> AsyncIterator[GatewayOf]:
    """Gives the gateway with these options that tests of this module share. Its provider answers by `handler` from now
    on; `at` makes what `change` would be from the provider's URL. What tests charge is on accounts of their own."""

    async def get(handler: Handler | None = None, **options: Any) -> Gateway:
        return await shared_gateways.get(handler, options)

    yield get
    await shared_gateways.close_busy()


@pytest.fixture
async def gateway(gateway_of: GatewayOf) -> Gateway:
    """One that tests of this module share, with the local provider alone."""
    return await gateway_of()


@pytest.fixture
async def customer(gateway: Gateway) -> Customer:
    """A key of a new account with five dollars."""
    return await gateway.customer()


@pytest.fixture
def customer_of(gateway_of: GatewayOf) -> CustomerOf:
    """Makes a customer with this balance of a gateway that tests of this module share; see `gateway_of`."""

    async def make(handler: Handler | None = None, balance_usd: str = "5.00", **options: Any) -> Customer:
        return await (await gateway_of(handler, **options)).customer(balance_usd)

    return make
