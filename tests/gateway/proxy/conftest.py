"""Fixtures of whole gateways: the tokenizer that they count with."""

import pytest

from gateway.tokens import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()
