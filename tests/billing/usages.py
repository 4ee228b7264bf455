"""Usage of every kind, for properties."""

from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from billing.usage import INPUT_PARTS, ModelUsage, Usage

OUTPUT_PARTS = ("reasoning_tokens", "audio_output_tokens", "image_output_tokens", "video_output_tokens")

UNITS = ("requests", "images", "milliseconds", "characters", "searches", "pages")


@st.composite
def usages(draw: st.DrawFn, most: int = 2_000_000) -> Usage:
    """Usages whose parts fit into their totals."""
    counts = {name: draw(st.integers(0, most)) for name in (*INPUT_PARTS, *OUTPUT_PARTS, *UNITS)}
    counts["input_tokens"] = sum(counts[name] for name in INPUT_PARTS) + draw(st.integers(0, most))
    counts["output_tokens"] = sum(counts[name] for name in OUTPUT_PARTS) + draw(st.integers(0, most))
    return Usage(**counts)


class UsageLine(NamedTuple):
    """So much of one class of one model. Tokens, units, milliseconds of the class `second`, thousandths of `unit`."""

    provider: str
    model: str
    price_class: str
    quantity: int


def usage_lines(provider: str, model: str, usage: Usage, others: Iterable[ModelUsage] = ()) -> list[UsageLine]:
    """Return the lines of an answer: those of the model that was asked, then those of each other model."""
    return [
        UsageLine(provider, name, price_class, quantity)
        for name, used in ((model, usage), *((other.model, other.usage) for other in others))
        for price_class, quantity in used.by_class().items()
    ]
