"""What of a chat's messages is not text: the search for it."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.providers.openai_parts import MOST_BRACKETS, MOST_SPACES, SHORT_BYTES, nested

SIGNS = st.sampled_from([b"[", b"{", b":", b" ", b"\n", b'"', b"a", b": [", b":\t{"])


def slowly(messages: bytes) -> bool:
    return re.search(rb":\s*[\[{]", messages) is not None


@given(st.lists(SIGNS, max_size=60).map(b"".join))
@example(b'{"content":' + b" " * MOST_SPACES + b"[")
@example(b"{" * (MOST_BRACKETS + 1) + b":[")
@example(b"[" * MOST_BRACKETS + b":{")
def test_it_finds_what_an_expression_finds(middle: bytes) -> None:
    messages = b"[" + b"a" * SHORT_BYTES + middle + b"]"
    assert nested(messages) == slowly(messages)


@pytest.mark.parametrize("sign", [b"{", b"[", b" ", b":", b" {"])
def test_text_made_to_be_slow_is_searched_by_the_expression(sign: bytes) -> None:
    messages = b'[{"role":"user","content":"' + sign * 100_000 + b'"}]'
    assert nested(messages) == slowly(messages)
