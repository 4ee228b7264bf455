"""What the gateway is made to do for a library, and the provider behind it, which does what a prompt says."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from gateway.config.settings import ModelConfig, Settings
from tests.clients import provider
from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway, chat
from tests.support.answering import Gate, saying, until

MODEL = "gpt-4o-mini"
# Names that every library knows, some refuse others by themselves: of the gateways here, the first leads to a model
# that has no price, the second to none.
UNPRICED, UNKNOWN = "gpt-4", "gpt-4-turbo"
TEXT = "Good day, friend."
HELD = "hold"
PLAIN, HTML, SILENT, CUT, WRONG = "Say something.", "html", "silent", "cut", "wrong"


@dataclass(frozen=True)
class Ask:
    """What a library is to be given, and what of it."""

    customer: Customer
    prompt: str = PLAIN
    model: str = MODEL
    stream: bool = False


@dataclass
class World:
    """Gateways over one pair of stores, each with what some behaviours need, and requests that go on behind them."""

    usual: Gateway
    impatient: Gateway
    full: Gateway
    gate: Gate = field(default_factory=lambda: Gate(_said))
    running: list[asyncio.Task[Any]] = field(default_factory=list)
    known: dict[str, Customer] = field(default_factory=dict)

    async def customer(self, balance_usd: str = "5.00", **key: Any) -> Customer:
        """A usual customer of this kind, the same whenever it is asked for."""
        kind = repr((balance_usd, key))
        if kind not in self.known:
            self.known[kind] = await self.usual.customer(balance_usd, **key)
        return self.known[kind]

    async def run(self, customer: Customer) -> None:
        """Have a request of this customer's go on until `let_go`."""

        async def go() -> None:
            async with customer.post(body=chat(HELD, model=MODEL)) as fetched:
                assert fetched.status == 200, await fetched.text()
                await fetched.read()

        came = self.gate.came
        self.running.append(asyncio.create_task(go()))
        await self.gate.reached(came + 1)

    async def let_go(self) -> None:
        """Have what is running end well."""
        self.gate.opened.set()
        running, self.running, self.gate = self.running, [], Gate(_said)
        await asyncio.gather(*running)


def _few_models(settings: Settings) -> Settings:
    named = {name: model for name, model in settings.models.items() if not name.endswith("*")}
    unpriced = ModelConfig(UNPRICED, "openai", "a-model-without-a-price")
    return in_all_apis(replace(settings, models={**named, UNPRICED: unpriced}))


def in_all_apis(settings: Settings) -> Settings:
    """Settings whose provider serves every API, as some gateways that are themselves asked by gateways do."""
    own = settings.providers["openai"]
    dialects = {name: own.base_url.removesuffix("/v1") for name in ("anthropic", "gemini")}
    return replace(settings, providers={**settings.providers, "openai": replace(own, dialects=dialects)})


@asynccontextmanager
async def worlds(make_gateway: MakeGateway, upstream: Callable[[Handler], Awaitable[str]]) -> AsyncIterator[World]:
    """Everything that the behaviours need."""
    url = await upstream(_provider(lambda: world.gate))
    world = World(
        await make_gateway(url, change=_few_models),
        await make_gateway(url, change=_few_models, upstream_timeout_s=0.1),
        await make_gateway(url, change=_few_models, max_unsettled=1),
    )
    try:
        yield world
    finally:
        await world.let_go()


def _provider(gate: Callable[[], Gate]) -> Handler:
    async def reply(request: web.Request) -> web.StreamResponse:
        prompts = await request.text()
        for word, handler in (
            (HELD, gate().serve),
            (HTML, saying(b"<html>", Content_Type="text/html")),
            (SILENT, _silent),
            (WRONG, provider.refuse),
            (CUT, provider.cut_off),
        ):
            if f'"{word}"' in prompts:
                return await handler(request)
        return await _said(request)

    return reply


async def _silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()  # until the gateway has had enough
    raise AssertionError


async def _said(request: web.Request) -> web.StreamResponse:
    return await provider.answer(request, TEXT)


# What is asked, in the order of the documentation's rows


async def plain(world: World) -> Ask:
    return Ask(await world.customer())


async def streamed(world: World) -> Ask:
    return Ask(await world.customer(), stream=True)


async def wrong_key(world: World) -> Ask:
    return Ask(Customer(world.usual, "", "", "mg_" + "0" * 38))


async def no_balance(world: World) -> Ask:
    return Ask(await world.customer("0"))


async def no_balance_streamed(world: World) -> Ask:
    return Ask(await world.customer("0"), stream=True)


async def model_not_allowed(world: World) -> Ask:
    return Ask(await world.customer(models=["gpt-4o"]))


async def model_unknown(world: World) -> Ask:
    return Ask(await world.customer(), model=UNKNOWN)


async def model_unpriced(world: World) -> Ask:
    return Ask(await world.customer(), model=UNPRICED)


async def refused_by_the_provider(world: World) -> Ask:
    return Ask(await world.customer(), WRONG)


async def quota_for_ever(world: World) -> Ask:
    return Ask(await world.customer(quotas=[{"window": "total", "metric": "requests", "limit": 0}]))


async def quota_until_the_month_ends(world: World) -> Ask:
    return Ask(await world.customer(quotas=[{"window": "month", "metric": "requests", "limit": 0}]))


async def quota_until_the_minute_ends(world: World) -> Ask:
    await until(lambda: 2 < time.time() % 60 < 45)  # some libraries wait for 60 s, some for less than that
    customer = await world.customer(quotas=[{"window": "minute", "metric": "requests", "limit": 1}])
    async with customer.post(body=chat(PLAIN, model=MODEL)) as fetched:  # the one, unless this minute has had it
        assert fetched.status in (200, 429), await fetched.text()
    return Ask(customer)


async def too_many_at_once(world: World) -> Ask:
    customer = await world.usual.customer(max_parallel_requests=1)
    await world.run(customer)
    return Ask(customer)


async def all_held(world: World) -> Ask:
    """A balance that a running request holds whole."""
    customer = await world.usual.customer("0.0005")
    await world.run(customer)
    return Ask(customer)


async def backlog_full(world: World) -> Ask:
    """One running request is as many as this gateway takes, whichever gateway it came through."""
    await world.run(await world.usual.customer())
    return Ask(await world.full.customer())


async def garbage(world: World) -> Ask:
    return Ask(await world.customer(), HTML)


async def silence(world: World) -> Ask:
    return Ask(await world.impatient.customer(), SILENT)


async def cut_off(world: World) -> Ask:
    return Ask(await world.customer(), CUT, stream=True)


BEHAVIOURS = {
    "answer": plain,
    "stream": streamed,
    "no valid key": wrong_key,
    "balance too low": no_balance,
    "balance too low, streamed": no_balance_streamed,
    "model not allowed": model_not_allowed,
    "model unknown": model_unknown,
    "model without a price": model_unpriced,
    "refused by the provider": refused_by_the_provider,
    "quota, resets late or never": quota_for_ever,
    "quota, resets with the month": quota_until_the_month_ends,
    "quota, resets within a minute": quota_until_the_minute_ends,
    "too many at once": too_many_at_once,
    "balance or quota held by running requests": all_held,
    "gateway can't meter now": backlog_full,
    "provider answers garbage": garbage,
    "provider silent": silence,
    "stream cut by the provider": cut_off,
}
