"""Usage: what one model used for one request, in classes that a price row can price. Pure.

Totals and their parts follow OpenAI's convention (https://platform.openai.com/docs/api-reference/chat/object):
`input_tokens` includes cached, cache-written, audio, image and video input; `output_tokens` includes reasoning, audio,
images and video. The parts are disjoint: cached audio is in `cached_audio_input_tokens` and in no other part. An answer
that several models made has one `ModelUsage` for each of the others beside the `Usage` of the first.
"""

import re
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Final

import msgspec

from billing.errors import MetergateError

# Upper bound of every count of one request; a provider that reports more is reporting nonsense.
MAX_COUNT: Final = 2**31 - 1
# Nine million million units of a meter.
MAX_UNIT_THOUSANDTHS: Final = 2**53 - 1
# Kinds of named units that one request may have.
MAX_NAMED: Final = 64
# A unit with a name of its own: a call of a tool (`call.file_search`), an image by size and quality
# (`image.1024x1024.high`).
NAMED_UNIT: Final = re.compile(r"(?:call|image)(?:\.[a-z0-9_:-]{1,40}){1,3}", re.ASCII)
_COST: Final = re.compile(r"\d{1,7}(?:\.\d{1,24})?", re.ASCII)


class UsageError(MetergateError, ValueError):
    """Counts that can't be: negative, beyond `MAX_COUNT`, or parts larger than their whole."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Counts of one request at one model. `input_tokens` and `output_tokens` are totals; other token counts are parts
    of them. `milliseconds` are of sound or video; `images` are those of no named kind; `named` counts further units by
    names that `NAMED_UNIT` matches. `unit_thousandths` are of whatever another service's meter counts, and may be
    more than any provider counts. `reported_cost_usd` is the provider's own cost as a plain decimal, None where it
    reports none.

    A struct, because one is made for every request, and a frozen dataclass of so many fields takes ten times as long.
    The fields that nearly every request leaves at zero stand last, so that they are compared at once. Raises
    `UsageError`.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 1
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    video_input_tokens: int = 0
    cached_audio_input_tokens: int = 0
    cached_image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    video_output_tokens: int = 0
    images: int = 0
    milliseconds: int = 0
    characters: int = 0
    searches: int = 0
    pages: int = 0
    named: Mapping[str, int] | None = None
    reported_cost_usd: str | None = None
    unit_thousandths: int | None = None

    def __post_init__(self) -> None:
        values = _values_of(self)
        counts = values[:_USUAL] if values[_USUAL:] == _NO_RARE else values[:_COUNTS]
        if not _ONLY_INT.issuperset(map(type, counts)) or min(counts) < 0 or max(counts) > MAX_COUNT:
            raise UsageError(f"counts must be integers from 0 to {MAX_COUNT}: {', '.join(COUNT_NAMES)}")
        if self.cached_input_tokens + self.cache_write_tokens > self.input_tokens:
            raise UsageError("the parts of input_tokens add up to more than it")
        if self.reasoning_tokens > self.output_tokens:
            raise UsageError("the parts of output_tokens add up to more than it")
        if len(counts) != _USUAL:
            self._check_rare()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and _values_of(self) == _values_of(other)

    def __hash__(self) -> int:
        return hash(_values_of(self))

    def with_counts(self, **changes: int) -> "Usage":
        """Return the same usage with other counts. Raises `UsageError`."""
        return Usage(**{**msgspec.structs.asdict(self), **changes})

    def _check_rare(self) -> None:
        if self.input_parts > self.input_tokens:
            raise UsageError("the parts of input_tokens add up to more than it")
        if self.output_parts > self.output_tokens:
            raise UsageError("the parts of output_tokens add up to more than it")
        named = self.named or {}
        if len(named) > MAX_NAMED:
            raise UsageError(f"named has more than {MAX_NAMED} kinds of units")
        for name, count in named.items():
            if not NAMED_UNIT.fullmatch(name) or type(count) is not int or not 0 < count <= MAX_COUNT:
                raise UsageError(f"named counts units such as call.file_search or image.1024x1024.high, not {name!r}")
        units = self.unit_thousandths
        if units is not None and not (type(units) is int and 0 <= units <= MAX_UNIT_THOUSANDTHS):
            raise UsageError(f"unit_thousandths is an integer from 0 to {MAX_UNIT_THOUSANDTHS}")
        if self.reported_cost_usd is not None and not _COST.fullmatch(self.reported_cost_usd):
            raise UsageError("reported_cost_usd is a plain decimal of USD that is not below zero")

    @property
    def input_parts(self) -> int:
        """Return tokens of the input that belong to a class of their own."""
        return sum(_input_parts_of(self))

    @property
    def output_parts(self) -> int:
        """Return tokens of the output that belong to a class of their own."""
        return self.reasoning_tokens + self.audio_output_tokens + self.image_output_tokens + self.video_output_tokens

    @property
    def is_plain(self) -> bool:
        """Return whether there is nothing but input, output and the request itself."""
        return _special_of(self) == _NOTHING_SPECIAL

    @property
    def is_usual(self) -> bool:
        """Return whether there is nothing but text: input, cached and written, output, reasoning, and the request
        itself."""
        return _values_of(self)[_USUAL:] == _NO_RARE

    @property
    def is_zero(self) -> bool:
        """Return whether nothing was counted but the request itself."""
        return not (self.input_tokens or self.output_tokens) and self.is_plain

    @property
    def total_tokens(self) -> int:
        """Return tokens of input and output together."""
        return self.input_tokens + self.output_tokens

    def by_class(self) -> dict[str, int]:
        """Return quantity by price class, each unit counted once; classes with nothing are left out. Seconds are
        counted in milliseconds, units of a meter in thousandths."""
        quantities = {
            "input": self.input_tokens - self.input_parts,
            "cached_input": self.cached_input_tokens,
            "cache_write": self.cache_write_tokens,
            "cache_write_1h": self.cache_write_1h_tokens,
            "audio_input": self.audio_input_tokens,
            "image_input": self.image_input_tokens,
            "video_input": self.video_input_tokens,
            "cached_audio_input": self.cached_audio_input_tokens,
            "cached_image_input": self.cached_image_input_tokens,
            "output": self.output_tokens - self.output_parts,
            "reasoning": self.reasoning_tokens,
            "audio_output": self.audio_output_tokens,
            "image_output": self.image_output_tokens,
            "video_output": self.video_output_tokens,
            "request": self.requests,
            "image": self.images,
            "second": self.milliseconds,
            "character": self.characters,
            "search": self.searches,
            "page": self.pages,
            "unit": self.unit_thousandths or 0,
            **(self.named or {}),
        }
        return {name: quantity for name, quantity in quantities.items() if quantity}


class TextUsage(Usage, frozen=True, gc=False):
    """A usage of text alone whose counts a decoder has checked already: what nearly every request has. To be made by
    `text_usage`; nothing is checked here, so that it must not be made of another one by `msgspec.structs.replace`."""

    def __post_init__(self) -> None:
        """Check nothing."""

    is_usual = True


def text_usage(prompt: int, output: int, cached: int, reasoning: int) -> TextUsage | None:
    """Return the usage of these counts, integers from 0 to `MAX_COUNT`; None where parts are above their whole."""
    if cached > prompt or reasoning > output:
        return None
    return TextUsage(prompt, output, cached, 0, reasoning)  # by position: msgspec looks for every name among all


_NOT_COUNTS: Final = ("named", "reported_cost_usd", "unit_thousandths")
COUNT_NAMES: Final = tuple(name for name in Usage.__struct_fields__ if name not in _NOT_COUNTS)
INPUT_PARTS: Final = tuple(name for name in COUNT_NAMES if "input_" in name or name.startswith("cache"))[1:]
_values_of: Final = msgspec.structs.astuple
_COUNTS: Final = len(COUNT_NAMES)
_USUAL: Final = 1 + COUNT_NAMES.index("requests")
_NO_RARE: Final = (*(0,) * (_COUNTS - _USUAL), *(None,) * len(_NOT_COUNTS))
_ONLY_INT: Final = frozenset((int,))
_input_parts_of: Final = attrgetter(*INPUT_PARTS)
_SPECIAL: Final = tuple(
    name for name in Usage.__struct_fields__ if name not in ("input_tokens", "output_tokens", "requests")
)
_special_of: Final = attrgetter(*_SPECIAL)
_NOTHING_SPECIAL: Final = (*(0,) * (len(_SPECIAL) - len(_NOT_COUNTS)), *(None,) * len(_NOT_COUNTS))


class ModelUsage(msgspec.Struct, frozen=True, gc=False):
    """What another model of the same provider used for a request: the advisor that it asked, the model that a fallback
    was served by, the one that transcribed. `model` is its name at the provider. It counts no request of its own unless
    its usage says so."""

    model: str
    usage: Usage


def total(usages: Iterable[Usage]) -> Usage:
    """Return the counts of several usages together; of their reported costs, and of meters, none is kept. Raises
    `UsageError`."""
    counts = dict.fromkeys(COUNT_NAMES, 0)
    named: dict[str, int] = {}
    for usage in usages:
        for name, count in zip(COUNT_NAMES, _values_of(usage)[:_COUNTS], strict=True):
            counts[name] += count
        for name, count in (usage.named or {}).items():
            named[name] = named.get(name, 0) + count
    return Usage(**counts, named=named or None)  # type: ignore[arg-type]


def merge_snapshot(before: Mapping[str, object], later: Mapping[str, object]) -> dict[str, object]:
    """Return usage fields of a stream after one more snapshot: a later value that is present and not null replaces the
    earlier one, whether it is larger or smaller; an absent or null one erases nothing. Objects are merged alike, lists
    are replaced."""
    merged = dict(before)
    for name, value in later.items():
        if value is None:
            continue
        known = merged.get(name)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = merge_snapshot(known, value)
        merged[name] = value
    return merged
