"""Usage of every kind, for properties."""

from hypothesis import strategies as st

from billing.usage import INPUT_PARTS, OUTPUT_PARTS, Usage

UNITS = ("requests", "images", "milliseconds", "characters", "searches", "pages")


@st.composite
def usages(draw: st.DrawFn, most: int = 2_000_000) -> Usage:
    """Usages whose parts fit into their totals."""
    counts = {name: draw(st.integers(0, most)) for name in (*INPUT_PARTS, *OUTPUT_PARTS, *UNITS)}
    counts["input_tokens"] = sum(counts[name] for name in INPUT_PARTS) + draw(st.integers(0, most))
    counts["output_tokens"] = sum(counts[name] for name in OUTPUT_PARTS) + draw(st.integers(0, most))
    return Usage(**counts)
