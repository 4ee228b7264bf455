"""Cursors of lists, as a client sends them back."""

import pytest

from billing.api.errors import BadRequest
from billing.api.requests import encode_cursor, page_asked
from billing.pages import CLOCKS_APART_S, BadCursor, checked_moment
from billing.shapes.base import PageQuery

TRANSACTION = "01M852Y7YRYEQPX11XSWPD37N1:-200:1795467190"


def sent(place: str) -> str | None:
    """Return what a list is asked for by the cursor of a place."""
    return page_asked(PageQuery(cursor=encode_cursor(place)))[1]


@pytest.mark.parametrize("running", ["", "923", "923,925", ",".join(str(9000 + each) for each in range(70))])
def test_a_moment_comes_back_whatever_was_under_way(running: str) -> None:
    place = f"{TRANSACTION}:923:10000:{running}"
    assert sent(place) == place


@pytest.mark.parametrize("place", ["a,b", f"{TRANSACTION}:1:2:3,x", f"{TRANSACTION}:1:2:{'9' * 300}", "x:" + "9" * 500])
def test_what_no_list_has_given_is_refused(place: str) -> None:
    with pytest.raises(BadRequest):
        sent(place)


def test_a_moment_is_not_from_long_before_what_was_there_then() -> None:
    last, at_s = TRANSACTION.partition(":")[0], 1_795_467_190
    for seconds in (at_s, at_s + 10**8, at_s - CLOCKS_APART_S + 1):
        moment = f"{seconds}:923:10000:924"
        assert checked_moment(moment, last) == moment
    assert checked_moment("", "z") is None
    for moment, id_ in (
        (f"{at_s - CLOCKS_APART_S}:923:10000:", last),
        ("0:3:3:", last),
        ("0:3:3:", "z"),
        (f"{at_s}:3:3:", last.lower()),
        (f"{at_s}:3:3:", "z" * 26),
        (f"{at_s}:3:3:", f"{last}9"),
        ("99999999999:3:3:", "9" * 26),
    ):
        with pytest.raises(BadCursor):
            checked_moment(moment, id_)
