"""Fixtures of transports."""

from collections.abc import AsyncIterator

import pytest

from gateway.upstream.transport import HttpTransport
from tests.support.providers import BOUND_S


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport(connections=10, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    yield made
    await made.close()
