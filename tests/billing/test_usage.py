"""Usage: totals include their parts, and every unit is counted in exactly one class."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.ledger.debits import other_counts
from billing.usage import COUNT_NAMES, INPUT_PARTS, MAX_COUNT, Usage, UsageError, text_usage
from tests.billing.usages import OUTPUT_PARTS, UNITS, usages


@given(usages())
def test_each_unit_is_counted_once(usage):
    classes = usage.by_class()
    assert all(classes.values())
    units = {"request", "image", "second", "character", "search", "page"}
    tokens = sum(quantity for name, quantity in classes.items() if name not in units)
    assert tokens == usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert sum(classes.get(name, 0) for name in units) == sum(getattr(usage, name) for name in UNITS)


def test_a_request_is_one_request():
    assert Usage().by_class() == {"request": 1}
    assert Usage(requests=0).by_class() == {}


@pytest.mark.parametrize("name", COUNT_NAMES)
@pytest.mark.parametrize("count", [-1, MAX_COUNT + 1, 2**32, 2**64, 1.0, True, "1", None])
def test_impossible_counts_are_refused(name, count):
    with pytest.raises(UsageError, match=name):
        Usage(**{name: count})


@pytest.mark.parametrize("part", INPUT_PARTS)
def test_parts_of_the_input_fit_into_it(part):
    assert Usage(input_tokens=5, **{part: 5}).by_class() == {part.removesuffix("_tokens"): 5, "request": 1}
    with pytest.raises(UsageError, match="input_tokens"):
        Usage(input_tokens=4, **{part: 5})


@pytest.mark.parametrize("part", OUTPUT_PARTS)
def test_parts_of_the_output_fit_into_it(part):
    assert Usage(output_tokens=5, **{part: 5}).by_class() == {part.removesuffix("_tokens"): 5, "request": 1}
    with pytest.raises(UsageError, match="output_tokens"):
        Usage(output_tokens=4, **{part: 5})


def test_parts_count_together():
    with pytest.raises(UsageError):
        Usage(input_tokens=10, cached_input_tokens=6, cache_write_tokens=5)
    with pytest.raises(UsageError):
        Usage(output_tokens=10, reasoning_tokens=6, audio_output_tokens=5)


COUNTS = st.integers(0, MAX_COUNT) | st.integers(0, 20)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_usage_of_text_is_the_usage_of_its_counts(prompt, output, cached, reasoning):
    counts = {"input_tokens": prompt, "output_tokens": output, "cached_input_tokens": cached}
    found = text_usage(prompt, output, cached, reasoning)
    if found is None:
        with pytest.raises(UsageError):
            Usage(**counts, reasoning_tokens=reasoning)
        return
    usage = Usage(**counts, reasoning_tokens=reasoning)
    assert found == usage
    assert usage == found
    assert hash(found) == hash(usage)
    assert (found.is_usual, found.is_plain, found.by_class()) == (True, usage.is_plain, usage.by_class())
    assert other_counts(found) is None
    assert found.with_counts(searches=2) == usage.with_counts(searches=2) != usage
    assert not found.with_counts(searches=2).is_usual
