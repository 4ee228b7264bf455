"""What is read of an answer is what the package genai-prices reads of it, class by class."""

import pytest
from genai_prices.data import providers

from tests.gateway.dialects.answers import ANSWERS, DIFFERENT, Answer
from tests.gateway.dialects.readers import READERS
from tests.support.oracle import counted_alike, overlapping

THEIRS = {provider.id: provider for provider in providers}


def both(answer: Answer) -> tuple[dict[str, int], dict[str, int]]:
    """Return their counts of an answer and ours, without those that are zero."""
    reported = READERS[answer.api](answer.text)
    assert reported is not None, answer
    ours = {name: count for name, count in overlapping(reported.total).items() if count}
    return counted_alike(THEIRS[answer.provider].extract_usage(answer.body, api_flavor=answer.flavor)[1]), ours


def test_usage_is_what_they_say():
    assert len(ANSWERS) >= 60
    for answer in ANSWERS:
        theirs, ours = both(answer)
        assert ours == theirs, answer


@pytest.mark.parametrize(("answer", "theirs", "ours"), DIFFERENT, ids=lambda each: getattr(each, "name", ""))
def test_where_it_differs_a_page_decides(answer, theirs, ours):
    oracle, read = both(answer)
    names = theirs.keys() | ours.keys()
    assert {name: count for name, count in oracle.items() if name in names} == theirs
    assert {name: count for name, count in read.items() if name in names} == ours
    assert {name: count for name, count in oracle.items() if name not in names} == {
        name: count for name, count in read.items() if name not in names
    }
