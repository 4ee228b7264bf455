"""Gateways before the scripted provider, and customers: one who may do everything on the free plan, and one in each
state that is refused."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import yaml

from billing.holds.redis.layout import Entry
from billing.money import NANO_PER_USD
from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import ModelConfig, Settings
from gateway.config.source import PRICES_FILE, SHIPPED_FOLDER
from tests.agents.agents import Agent
from tests.agents.provider import Exchange, Provider
from tests.gateway.conftest import Customer, Gateway, MakeGateway, chat
from tests.support.answering import PROVIDER_KEY
from tests.support.gateways import HELD, ask, journal
from tests.support.shipped import shipped_settings

FREE = {"plan": "free"}
BALANCE_USD = "5.00"
UNPRICED = "-unpriced"
# Requests of a window, of which as many are used up.
ADMITTED = 3
LOCAL_CHAT = chat("Hello")


@dataclass
class Holds:
    """What requests held while the provider had them, by their ids."""

    gateway: Gateway
    seen: dict[str, Entry] = field(default_factory=dict)

    async def note(self) -> None:
        """Note what is held now."""
        for request_id, entry in (await journal(self.gateway)).items():
            if entry.state == HELD:
                self.seen[request_id] = entry


def serving_all(url: str, agent: Agent) -> Callable[[Settings], Settings]:
    """Return what points all three providers at `url`, lets sockets be served, and names a model without a price. All
    else is as it is shipped, plans too."""

    def change(settings: Settings) -> Settings:
        kinds = {"openai": f"{url}/v1", "anthropic": url, "gemini": url}
        own = {name: ProviderConfig(name, name, base, Secret(PROVIDER_KEY)) for name, base in kinds.items()}
        own["openai"] = replace(own["openai"], dialects={"responses_websocket": url.replace("http", "ws") + "/v1"})
        provider = next(name for name in own if settings.models.get(name) or name == _provider_of(agent.model))
        name = agent.model + UNPRICED
        models = {**settings.models, name: ModelConfig(name, provider, "a-model-without-a-price")}
        plans = shipped_settings("").plans
        return replace(settings, providers={**settings.providers, **own}, models=models, plans=plans)

    return change


def _provider_of(model: str) -> str:
    return {"claude": "anthropic", "gemini": "gemini"}.get(model.partition("-")[0], "openai")


async def make_world(make_gateway: MakeGateway, provider: Provider, agent: Agent) -> Gateway:
    """Return a gateway by its default settings before this provider."""
    return await make_gateway(change=serving_all(provider.url, agent))


def price_of(model: str) -> dict[str, int]:
    """Return the shipped price of a model in nano-USD a token, read from the file itself."""
    rows = yaml.safe_load((SHIPPED_FOLDER / PRICES_FILE).read_text("utf-8"))
    provider = _provider_of(model)
    (row,) = [
        each for each in rows if each["provider"] == provider and model in (each["model"], *each.get("aliases", ()))
    ][-1:]
    return {name: int(float(usd) * NANO_PER_USD / 1_000_000 + 0.5) for name, usd in row["per_million"].items()}


def charge_of(exchange: Exchange) -> int:
    """Return what a reported usage costs, in nano-USD."""
    assert exchange.used is not None
    used, price = exchange.used, price_of(exchange.model)
    fresh = used.input_tokens - used.cached_tokens
    return fresh * price["input"] + used.cached_tokens * price["cached_input"] + used.output_tokens * price["output"]


# Customers who are refused


async def wrong_key(gateway: Gateway) -> Customer:
    """A key that nobody has."""
    return Customer(gateway, "", "", "mg_" + "0" * 38)


async def no_credit(gateway: Gateway) -> Customer:
    """An account without credit."""
    return await gateway.customer("0", account=FREE)


async def _used_up(gateway: Gateway, window: str) -> Customer:
    quota = {"window": window, "metric": "requests", "limit": ADMITTED}
    customer = await gateway.customer(BALANCE_USD, account=FREE, quotas=[quota])
    for _ in range(ADMITTED):
        assert (await ask(customer, LOCAL_CHAT)).status == 200
    return customer


async def minute_used_up(gateway: Gateway) -> Customer:
    """A quota that resets within half a minute."""
    while not 35 < time.time() % 60 < 45:
        await asyncio.sleep(0.2)
    return await _used_up(gateway, "minute")


async def day_used_up(gateway: Gateway) -> Customer:
    """A quota that resets at midnight."""
    return await _used_up(gateway, "day")


async def unpriced(gateway: Gateway) -> Customer:
    """Credit, for a model that has no price."""
    return await gateway.customer(BALANCE_USD, account=FREE)


async def never_fits(gateway: Gateway) -> Customer:
    """A window that no request of a tool fits into."""
    quota = {"window": "minute", "metric": "tokens", "limit": 200}
    return await gateway.customer(BALANCE_USD, account=FREE, quotas=[quota])


REFUSALS = {
    "no valid key": wrong_key,
    "balance too low": no_credit,
    "quota, resets within a minute": minute_used_up,
    "quota, resets with the day": day_used_up,
    "model without a price": unpriced,
    "request that never fits": never_fits,
}
