"""What is charged when an answer came but its usage did not (`missing_usage`): an estimate, the hold, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from billing.holds.hold import Hold
from billing.usage import Usage
from gateway.exchange import Exchange
from gateway.tokens import Tokenizer

Policy = Literal["estimate", "hold", "free"]


@dataclass(frozen=True, slots=True)
class Guess:
    """A usage that no provider reported. `free` says that it is not charged."""

    usage: Usage
    free: bool = False


class MissingUsage:
    """Guesses usage by the configured policy; counts off the event loop where the text is long."""

    def __init__(self, policy: Policy, tokenizer: Tokenizer) -> None:
        self._policy = policy
        self._tokenizer = tokenizer

    async def guess(self, exchange: Exchange, hold: Hold, text: str, extrapolate: Any = None) -> Guess:
        """The usage of an answer of which `text` passed; `extrapolate` scales a count where only part was kept.

        An estimate never exceeds the hold's output: the provider was told that maximum.
        """
        if self._policy == "hold":
            return Guess(Usage(input_tokens=hold.need.input_tokens, output_tokens=hold.output_tokens))
        if self._policy == "free":
            return Guess(Usage(), free=True)
        vocabulary = exchange.route.vocabulary
        output = await self._tokenizer.count_off_loop(text, vocabulary)
        if extrapolate is not None:
            output = extrapolate(output)
        return Guess(Usage(input_tokens=await self._input(exchange), output_tokens=min(output, hold.output_tokens)))

    async def _input(self, exchange: Exchange) -> int:
        body: Mapping[str, Any] = msgspec.json.decode(exchange.body)
        vocabulary = exchange.route.vocabulary
        messages = body.get("messages")
        if isinstance(messages, list):
            return await self._tokenizer.count_chat_messages_off_loop(messages, vocabulary)
        said = body.get("prompt", body.get("input"))
        texts = [said] if isinstance(said, str) else [item for item in said or () if isinstance(item, str)]
        if not texts and isinstance(said, list):  # token ids, or lists of them
            return sum(len(item) if isinstance(item, list) else 1 for item in said)
        return sum([await self._tokenizer.count_off_loop(text, vocabulary) for text in texts])
