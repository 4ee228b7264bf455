"""A gateway whose provider `openai` serves the API of the tests' own, and a client of it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.dialects import registry
from tests.gateway.conftest import Change, Customer, GatewayOf
from tests.support.answering import PROVIDER_KEY
from tests.support.echo_dialect.dialect import EchoDialect
from tests.support.gateways import Fetched, assert_tells_no_secret, fetch

SAID = b'{"text": "Say something.", "limit": 9}'
HEARD = {"words": "Good day.", "spent": {"read": 10, "written": 5}}


def speaking_echo(url: str, change: Change | None = None) -> Change:
    """Settings whose provider `openai` serves the API here."""
    base = f"{url.removesuffix('/v1')}/base?v=3"

    def serving_echo(settings: Settings) -> Settings:
        settings = settings if change is None else change(settings)
        own = ProviderConfig("openai", "openai", "", Secret(PROVIDER_KEY), dialects={"echo": base})
        return replace(settings, providers={**settings.providers, "openai": own})

    return serving_echo


@pytest.fixture(scope="module")
def echo_served() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "DIALECTS", (EchoDialect, *registry.DIALECTS))
        yield


@pytest.fixture
def gateway_of(echo_served: None, gateway_of: GatewayOf) -> GatewayOf:
    """Gateways whose provider `openai` serves the API."""
    return partial(gateway_of, at=speaking_echo)


async def say(
    customer: Customer, how: str = "say", body: bytes = SAID, model: str = "gpt-4o-mini", **options: Any
) -> Fetched:
    headers = {"x-echo-key": customer.key, **options.pop("headers", {})}
    url = f"{customer.gateway.url}/echo/v2/models/{model}:{how}{options.pop('query', '')}"
    return await fetch(customer.gateway.session.post(url, data=body, headers=headers, **options))


def fault(fetched: Fetched, status: int, reason: str) -> dict[str, Any]:
    """The error in the API's own envelope."""
    assert (fetched.status, list(fetched.json)) == (status, ["fault"])
    assert_tells_no_secret(fetched.body.decode() + str(fetched.headers))
    shown: dict[str, Any] = fetched.json["fault"]
    assert shown["reason"] == reason
    assert shown["request"] == fetched.headers["x-echo-request"] == fetched.headers["x-request-id"]
    return shown
