"""What is charged when an answer came but its usage did not (`missing_usage`): an estimate, the hold, or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from billing.holds.hold import Hold
from billing.usage import Usage
from gateway.estimate import Charge
from gateway.exchange import Exchange
from gateway.tokens import Tokenizer

Policy = Literal["estimate", "hold", "free"]


@dataclass(frozen=True, slots=True)
class Guess:
    """A usage that no provider reported, and what is charged for it."""

    usage: Usage
    charge: Charge


class MissingUsage:
    """Guesses usage by the configured policy; counts off the event loop where the text is long."""

    def __init__(self, policy: Policy, tokenizer: Tokenizer) -> None:
        self._policy = policy
        self._tokenizer = tokenizer

    async def guess(
        self, exchange: Exchange, hold: Hold, text: str, extrapolate: Callable[[int], int] | None = None
    ) -> Guess:
        """The usage of an answer of which `text` passed; `extrapolate` scales a count where only part was kept.

        An estimate never exceeds a hold that is a bound: the provider was told that maximum.
        """
        if self._policy == "hold":
            usage = Usage(input_tokens=hold.need.input_tokens, output_tokens=hold.output_tokens)
            return Guess(usage, msgspec.structs.replace(exchange.charge(usage, None), charged_nano=hold.cost_nano))
        if self._policy == "free":
            return Guess(Usage(), Charge(0, 0, None))
        output = await self._tokenizer.count_off_loop(text, exchange.route.vocabulary)
        if extrapolate is not None:
            output = extrapolate(output)
        input_tokens = await self._input(exchange)
        if exchange.strict:
            output, input_tokens = min(output, hold.output_tokens), min(input_tokens, hold.need.input_tokens)
        usage = Usage(input_tokens=input_tokens, output_tokens=output)
        return Guess(usage, exchange.charge(usage, None))

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
