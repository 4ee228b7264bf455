"""Bytes and costs of streams that tests send through a whole gateway."""

from typing import Any

from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import chat
from tests.support.gateways import (
    INPUT,
    OUTPUT,
)

PLAIN = chat(model="gpt-4o-mini")
STREAM = chat(model="gpt-4o-mini", stream=True)


def estimate_nano(tokenizer: Tokenizer, text: str, body: dict[str, Any] = STREAM) -> int:
    """What an answer without usage is charged."""
    return tokenizer.count_chat_messages(body["messages"], O200K) * INPUT + tokenizer.count(text, O200K) * OUTPUT
