"""Fixtures of the local provider."""

from collections.abc import Iterator

import pytest

from gateway.tokens import Tokenizer
from gateway.upstream.local.provider import LocalTransport


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    made = Tokenizer()
    yield made
    made.close()


@pytest.fixture
def local(tokenizer: Tokenizer) -> LocalTransport:
    return LocalTransport(tokenizer, now=lambda: 1_700_000_000.5)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
