"""The package genai-prices as a second opinion: its counts in the place of ours, and ours in the place of its."""

from decimal import Decimal
from functools import cache
from pathlib import Path

from genai_prices import Usage as TheirUsage

from billing.pricing import PriceTable
from billing.usage import Usage
from gateway.config.prices import read_prices
from gateway.config.source import Problems, read_file
from tools.make_prices import TARGET


def theirs(usage: Usage) -> TheirUsage:
    """Return the same usage as they count it: counts overlap, each contains all that is more special."""
    made = {name: count for name, count in overlapping(usage).items() if count}
    if usage.milliseconds:
        made["audio_seconds"] = made["input_audio_seconds"] = Decimal(usage.milliseconds) / 1000  # type: ignore[assignment]
    return TheirUsage(**made)


def overlapping(usage: Usage) -> dict[str, int]:
    """Return what has a count of theirs, by its name there, seconds left out."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cached_input_tokens
        + usage.cached_audio_input_tokens
        + usage.cached_image_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "input_audio_tokens": usage.audio_input_tokens + usage.cached_audio_input_tokens,
        "cache_audio_read_tokens": usage.cached_audio_input_tokens,
        "input_image_tokens": usage.image_input_tokens + usage.cached_image_input_tokens,
        "cache_image_read_tokens": usage.cached_image_input_tokens,
        "input_video_tokens": usage.video_input_tokens,
        "output_tokens": usage.output_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.audio_output_tokens,
        "output_image_tokens": usage.image_output_tokens,
        "output_video_tokens": usage.video_output_tokens,
        "web_searches": usage.searches,
        "storage_searches": (usage.named or {}).get("call.file_search", 0),
        "input_document_pages": usage.pages,
        "input_characters": usage.characters,
    }


def counted_alike(usage: TheirUsage) -> dict[str, int]:
    """Return what they have read of an answer, by those of their names that ours can be compared by, zeroes left out.
    Text is what the totals leave; what tools brought is in the input's total; a write of five minutes is in the
    writes."""
    counts = {name: int(usage.reported_value(name) or 0) for name in overlapping(Usage())}
    return {name: count for name, count in counts.items() if count}


@cache
def table() -> PriceTable:
    problems = Problems()
    value = read_file(Path(TARGET), "prices.yaml", {}, problems)
    assert value is not None
    prices = read_prices(value)
    assert len(problems) == 0
    return prices
