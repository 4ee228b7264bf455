"""Fixtures of whole gateways: the tokenizer that they count with, and what many tests share a gateway by."""

import pytest

from gateway.tokens import Tokenizer
from tests.support.stories import tell

__all__ = ["tell", "tokenizer"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer()
    made.load()
    return made
