"""A whole gateway on the real stores, served on loopback inside the test's event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
from gateway.endpoints.reads import Health
from gateway.metrics.registry import Metrics
from gateway.proxy.handler import Proxy
from gateway.runtime.runtime import Runtime
from gateway.runtime.wiring import open_runtime
from gateway.server.edge import EdgeRunner
from gateway.server.listening import address_of, bind
from gateway.server.plain import PlainRunner
from tests.support.shipped import shipped_settings

ADMIN_KEY = "admin-key-of-all-the-tests"
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
"""A store or a provider that is slow because the machine is busy is not silent, who waits for it not refused, and no
gateway dead; a test of silence says its own bounds."""


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
            *(user_id, f"{user_id.lower()}@example.com", f"org_{ULID()}", str(ULID()).lower(), account_id),
        )
        sessions = self.runtime.services.sessions
        async with sessions.transaction() as connection:
            pair = await sessions.start(connection, user_id, address=None, user_agent=None)
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


def impatient(settings: Settings) -> Settings:
    """Settings whose plans let no request wait for running ones: it is refused at once."""
    plans = {plan_id: replace(plan, admission_queue_s=0) for plan_id, plan in settings.plans.items()}
    return replace(settings, plans=plans)


CHEAP_HASHES = partial(PasswordHasher, time_cost=1, memory_cost=64, parallelism=1)
"""What a password's hash costs is the subject of no gateway's test."""


@pytest.fixture
async def make_gateway(
    database_url: str, redis_url: str, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeGateway]:
    """Makes gateways that share the test's stores; keywords replace fields of `Limits`. Of the shipped plans none lets
    a request wait for running ones: a test of waiting brings its own. Hashes of passwords are cheap."""
    monkeypatch.setattr("billing.identity.passwords.PasswordHasher", CHEAP_HASHES)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def make(
            upstream: str | None = None,
            *,
            change: Callable[[Settings], Settings] | None = None,
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
async def gateway(make_gateway: MakeGateway) -> Gateway:
    return await make_gateway()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Serves a provider of the test's own; answers its base URL."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> str:
            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{path:.*}", handler)
            return (
                await stack.enter_async_context(run(web.AppRunner(app, access_log=None, shutdown_timeout=1.0))) + "/v1"
            )

        yield start
