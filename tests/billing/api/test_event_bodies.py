"""Bodies of usage events, cut so that one that can't be read spoils no other one."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.api.metering import CLOUD_BATCH, checked, events_of
from billing.api.requests import BadRequest
from billing.api.route import JSON

GOOD = b'{"event_id": "a, ]}\\"\\\\", "tags": {"x": "[1, {2"}, "n": [1, [2, 3], {}]}'
BAD_TEXTS = {
    "a NUL, escaped": b"\\u0000",
    "a NUL": b"\0",
    "another control character": b"\x01",
    "a high surrogate": b"\\ud800",
    "a low surrogate": b"\\uDFFF",
    "two high surrogates": b"\\ud800\\ud800",
    "a byte that is no UTF-8": b"\xff",
    "a surrogate in UTF-8": b"\xed\xa0\x80",
    "an overlong NUL": b"\xc0\x80",
    "a wrong escape": b"\\x00",
}
PLACES = {
    "its id": b'{"event_id": "%s"}',
    "a name": b'{"%s": 1}',
    "something deep": b'{"tags": {"a": ["b", {"c": "d%se"}]}}',
}


def bodies(kind: str, events: bytes) -> Any:
    return events_of(kind, {}, events if kind == CLOUD_BATCH else b'{"events": ' + events + b"}")


def is_readable(event: msgspec.Raw) -> bool:
    try:
        checked(event)
    except BadRequest:
        return False
    return True


@pytest.mark.parametrize("kind", [JSON, CLOUD_BATCH])
@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_one_bad_text_is_one_bad_event(kind, text, place):
    bad = place.replace(b"%s", text)
    found = bodies(kind, b"[" + b", ".join([GOOD, bad, GOOD]) + b"]")
    assert (found.alone, found.cloud) == (False, kind == CLOUD_BATCH)
    assert [is_readable(each) for each in found.events] == [True, False, True]
    assert [json.loads(bytes(each)) for each in found.events[::2]] == [json.loads(GOOD)] * 2


@pytest.mark.parametrize(
    "bad", [b"{\0}", b'{"a":\0 1}', b'{"a" 1}', b"nul", b"", b"{'a': 1}", b"[" * 5000 + b"]" * 5000]
)
def test_so_is_what_is_no_json(bad):
    found = bodies(JSON, b"[" + b", ".join([GOOD, bad, GOOD]) + b"]")
    assert [is_readable(each) for each in found.events] == [True, False, True]


@pytest.mark.parametrize("text", [b"\\\\u0000", b"\\ud83d\\ude00", "\N{GRINNING FACE}".encode(), b"\\\\ud800", b"\x7f"])
def test_what_only_seems_wrong_is_none(text):
    found = bodies(JSON, b'[{"event_id": "' + text + b'"}]')
    assert [is_readable(each) for each in found.events] == [True]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"events": [{"a": "}]}', b'{"events": [}, {]}', b'{"events": [], "account_id": "\xff"', b"[]",
     b'{"events": [{"a": 1}]', b'{"events": 7}', b'{"events": [1], "events": [2], "x": [3]}'],
)  # fmt: skip
def test_a_body_that_is_no_batch_is_refused(body):
    with pytest.raises(BadRequest):
        events_of(JSON, {}, body)


@pytest.mark.parametrize("name", ["ce-subject", "ce-id"])
def test_attributes_in_headers_are_utf_8(name):
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-subject": "a", "ce-source": "/s", "ce-type": "m"}
    with pytest.raises(BadRequest):
        events_of(JSON, {**attributes, name: "%ED%A0%80"}, b"1")
    nul = events_of(JSON, {**attributes, name: "a%00b"}, b"1")
    assert not is_readable(nul.events[0])


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON_VALUES, max_size=6), st.integers(0, 6))
def test_the_others_are_cut_as_they_were(events, at):
    pieces = [json.dumps(each).encode() for each in events]
    pieces.insert(at, b'"\\ud800"')
    found = bodies(JSON, b"[" + b",".join(pieces) + b"]")
    assert [bytes(each) for each in found.events] == pieces
