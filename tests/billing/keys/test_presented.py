"""Which key a request presents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from billing.keys.secrets import KEY_HEADERS, DifferentKeys, bearer_of, presented_key

Pairs = list[tuple[str, str]]


def shown(pairs: Pairs) -> str | None:
    """As aiohttp has a request's headers."""
    return presented_key(CIMultiDictProxy(CIMultiDict(pairs)))


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ([("Authorization", "Bearer mg_a")], "mg_a"),
        ([("authorization", "bEaReR   mg_a ")], "mg_a"),
        ([("x-api-key", "mg_a")], "mg_a"),
        ([("X-Goog-Api-Key", " mg_a ")], "mg_a"),
        ([("Api-Key", "mg_a")], "mg_a"),
        ([("Authorization", "Bearer mg_a"), *[(name, "mg_a") for name in KEY_HEADERS]], "mg_a"),
        ([("Authorization", "Basic bWc6"), ("x-api-key", "mg_b")], "mg_b"),
        ([("Authorization", "Bearer "), ("api-key", "mg_b")], "mg_b"),
        ([("Authorization", "Basic bWc6"), ("Authorization", "Bearer mg_a")], "mg_a"),
        ([("Authorization", "Bearer")], None),
        ([("Authorization", "mg_a")], None),
        ([("Authorization", ""), ("x-api-key", " ")], None),
        ([("key", "mg_a"), ("Cookie", "key=mg_a")], None),
        ([], None),
    ],
)
def test_the_key_that_is_presented(pairs, key):
    assert shown(pairs) == key


PLACES = st.sampled_from(["Authorization", "x-api-key", "X-GOOG-API-KEY", "api-key"])


@given(st.lists(st.tuples(PLACES, st.sampled_from(["mg_a", "mg_b", "mg_\udcff", ""])), max_size=6))
def test_two_that_differ_are_neither(places):
    """Wherever they stand, also twice in headers of one name."""
    pairs = [(name, f"Bearer {key}" if name == "Authorization" else key) for name, key in places]
    keys = {key for _, key in places if key}
    if len(keys) < 2:
        assert shown(pairs) == (keys.pop() if keys else None)
        return
    with pytest.raises(DifferentKeys) as refused:
        shown(pairs)
    assert all(key not in str(refused.value) for key in keys)


def test_what_is_no_api_key_may_be_a_bearer_too():
    for value, secret in (("Bearer a b", "a b"), ("bearer  a", "a"), ("Basic a", ""), ("", "")):
        assert bearer_of(CIMultiDict({"authorization": value})) == secret
    assert bearer_of(CIMultiDict()) == ""
