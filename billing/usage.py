"""Usage: what one request used, in classes that a price row can price. Pure.

Totals and their parts follow OpenAI's convention (https://platform.openai.com/docs/api-reference/chat/object):
`input_tokens` includes cached, cache-written, audio and image input; `output_tokens` includes reasoning and audio.
"""

from operator import attrgetter
from typing import Final

import msgspec

from billing.errors import MetergateError

MAX_COUNT: Final = 2**31 - 1
"""Upper bound of every count of one request; a provider that reports more is reporting nonsense."""


class UsageError(MetergateError, ValueError):
    """Counts that can't be: negative, beyond `MAX_COUNT`, or parts larger than their whole."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Counts of one request. `input_tokens` and `output_tokens` are totals; other token counts are parts of them.

    A struct, because one is made for every request, and a frozen dataclass of so many fields takes ten times as long.
    Raises `UsageError`.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    requests: int = 1
    images: int = 0
    seconds: int = 0
    characters: int = 0
    searches: int = 0

    def __post_init__(self) -> None:
        counts = msgspec.structs.astuple(self)
        if not _ONLY_INT.issuperset(map(type, counts)) or min(counts) < 0 or max(counts) > MAX_COUNT:
            raise UsageError(f"counts must be integers from 0 to {MAX_COUNT}: {', '.join(COUNT_NAMES)}")
        if self.input_parts > self.input_tokens:
            raise UsageError("the parts of input_tokens add up to more than it")
        if self.reasoning_tokens + self.audio_output_tokens > self.output_tokens:
            raise UsageError("the parts of output_tokens add up to more than it")

    @property
    def input_parts(self) -> int:
        """Tokens of the input that belong to a class of their own."""
        return (
            self.cached_input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
        )

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but input, output and the request itself."""
        return not any(_special_counts_of(self))

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def by_class(self) -> dict[str, int]:
        """Quantity by price class, each unit counted once; classes with nothing are left out."""
        quantities = {
            "input": self.input_tokens - self.input_parts,
            "cached_input": self.cached_input_tokens,
            "cache_write": self.cache_write_tokens,
            "cache_write_1h": self.cache_write_1h_tokens,
            "audio_input": self.audio_input_tokens,
            "image_input": self.image_input_tokens,
            "output": self.output_tokens - self.reasoning_tokens - self.audio_output_tokens,
            "reasoning": self.reasoning_tokens,
            "audio_output": self.audio_output_tokens,
            "request": self.requests,
            "image": self.images,
            "second": self.seconds,
            "character": self.characters,
            "search": self.searches,
        }
        return {name: quantity for name, quantity in quantities.items() if quantity}


COUNT_NAMES: Final = Usage.__struct_fields__
_ONLY_INT: Final = frozenset((int,))
_special_counts_of: Final = attrgetter(
    *(name for name in COUNT_NAMES if name not in ("input_tokens", "output_tokens", "requests"))
)
