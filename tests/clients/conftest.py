"""The gateway's fixtures, for libraries on its outside. A module names its `LIBRARY` and the `PROVIDER` that it stands
for."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.clients.libraries import Asker, started
from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway, make_gateway, upstream
from tests.support.answering import PROVIDER_KEY

__all__ = ["asker", "make_customer", "make_gateway", "upstream"]


@pytest.fixture
def asker(request: pytest.FixtureRequest) -> Iterator[Asker]:
    """A process of the module's library."""
    library = request.module.LIBRARY
    if library.missing:
        pytest.skip(library.missing)
    with started(library) as made:
        yield made


@pytest.fixture
def make_customer(
    request: pytest.FixtureRequest, make_gateway: MakeGateway, upstream: Callable[[Handler], Awaitable[str]]
) -> Any:
    """Makes a customer of a gateway before the module's provider; options are the customer's."""
    name = request.module.PROVIDER

    async def make(handler: Handler | str, balance_usd: str = "5.00", change: Any = None, **key: Any) -> Customer:
        url = handler if isinstance(handler, str) else (await upstream(handler)).removesuffix("/v1")

        def with_provider(settings: Settings) -> Settings:
            own = ProviderConfig(name, name, url, Secret(PROVIDER_KEY))
            settings = replace(settings, providers={**settings.providers, name: own})
            return settings if change is None else change(settings)

        gateway: Gateway = await make_gateway(change=with_provider)
        return await gateway.customer(balance_usd, **key)

    return make
