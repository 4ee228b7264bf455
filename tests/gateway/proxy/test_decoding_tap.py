"""Answers that come compressed although identity was asked for."""

import gzip
import zlib

import pytest

from gateway.proxy.decoding_tap import MAX_MEMBERS, decoded
from gateway.upstream.base import UpstreamTooLarge

PLAIN = b'{"usage": {"prompt_tokens": 3}}' * 50_000


@pytest.mark.parametrize("cut", [0, 1, 1_000, len(PLAIN)])
def test_all_members_of_a_whole_answer_are_decoded(cut):
    body = gzip.compress(PLAIN[:cut]) + gzip.compress(PLAIN[cut:])
    for limit_bytes in (len(PLAIN), len(PLAIN) + 1, 1 << 30):
        assert decoded(body, "gzip", limit_bytes) == PLAIN
    with pytest.raises(UpstreamTooLarge):
        decoded(body, "x-gzip", len(PLAIN) - 1)


def test_what_is_no_such_answer_is_an_error():
    many = gzip.compress(b"x") * MAX_MEMBERS
    assert decoded(many, "gzip", 1 << 20) == b"x" * MAX_MEMBERS
    for body in (many + gzip.compress(b"x"), gzip.compress(PLAIN) + b"behind", b"no gzip", zlib.compress(PLAIN)):
        with pytest.raises(zlib.error):
            decoded(body, "gzip", 1 << 30)


@pytest.mark.parametrize("encoding", [None, "", "identity"])
def test_what_is_not_encoded_stays_as_it_is(encoding):
    assert decoded(PLAIN, encoding, 1) is PLAIN
