"""Cursors of lists, as a client sends them back."""

import pytest

from billing.api.requests import BadRequest, encode_cursor, page_asked
from billing.pages import BadCursor, check_seal, seal_of
from billing.schemas.base import PageQuery

TRANSACTION = f"01M852Y7YRYEQPX11XSWPD37N1:-200:{'0a' * 16}:1795467190"


def sent(place: str) -> str | None:
    """Return what a list is asked for by the cursor of a place."""
    return page_asked(PageQuery(cursor=encode_cursor(place)))[1]


@pytest.mark.parametrize("running", ["", "923", "923,925", ",".join(str(9000 + each) for each in range(70))])
def test_a_moment_comes_back_whatever_was_under_way(running):
    place = f"{TRANSACTION}:923:10000:{running}"
    assert sent(place) == place


@pytest.mark.parametrize(
    "place", ["a,b", f"{TRANSACTION}:1:2:3,x", f"{TRANSACTION}:1:2:{'9' * 1000}", "x:" + "9" * 500]
)
def test_what_no_list_has_given_is_refused(place):
    with pytest.raises(BadRequest):
        sent(place)


def test_a_seal_is_of_one_place_of_one_account():
    seal = seal_of(b"secret", "acc_1", TRANSACTION)
    check_seal(b"secret", "acc_1", TRANSACTION, seal)
    for secret, account_id, place, shown in (
        (b"other", "acc_1", TRANSACTION, seal),
        (b"secret", "acc_2", TRANSACTION, seal),
        (b"secret", "acc_1", TRANSACTION.replace("200", "900"), seal),
        (b"secret", "acc_1", TRANSACTION, ""),
        (b"secret", "acc_1", TRANSACTION, f"{seal}0"),
        (b"secret", "acc_1", TRANSACTION, "é"),
    ):
        with pytest.raises(BadCursor):
            check_seal(secret, account_id, place, shown)
