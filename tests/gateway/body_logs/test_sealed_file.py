"""Files of bodies: what was sealed comes back, by the right key alone, and nothing that was changed does."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body_logs.sealed_file import CHUNK_BYTES, FileBroken, Keys, key_name, read_head
from tests.gateway.body_logs.support import KEY, NEXT_KEY


def seal(lines, key=KEY, account="acc_1"):
    return Keys(key).seal(account, b"".join(line + b"\n" for line in lines))


LARGE = [os.urandom(200).hex().encode() for _ in range(2_000)]  # several chunks


@given(st.lists(st.binary(max_size=50).filter(lambda line: b"\n" not in line), max_size=20))
def test_lines_come_back(lines):
    assert list(Keys(KEY).lines(seal(lines))) == lines


def test_a_large_file_has_many_chunks_and_no_text():
    sealed = seal(LARGE)
    assert len(sealed) > 3 * CHUNK_BYTES
    assert list(Keys(KEY).lines(sealed)) == LARGE
    assert LARGE[0][:16] not in sealed
    assert read_head(sealed)[0].account == "acc_1"


def test_keys_change():
    old, new = seal([b"old"]), seal([b"new"], NEXT_KEY)
    keys = Keys(NEXT_KEY, [KEY])
    assert (list(keys.lines(old)), list(keys.lines(new))) == ([b"old"], [b"new"])
    with pytest.raises(FileBroken, match=key_name(KEY)):
        list(Keys(NEXT_KEY).lines(old))
    assert KEY not in repr(keys)


def test_no_two_files_are_alike():
    assert seal([b"same"]) != seal([b"same"])


def broken(sealed):
    with pytest.raises(FileBroken):
        list(Keys(KEY).lines(sealed))


@given(st.data())
def test_a_bit_that_was_changed_is_noticed(data):
    sealed = bytearray(seal([b"one", b"two"]))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken(bytes(sealed))


@given(st.data())
def test_a_file_that_was_cut_is_noticed(data):
    sealed = seal([b"one", b"two"])
    broken(sealed[: data.draw(st.integers(0, len(sealed) - 1))])


def test_chunks_that_were_cut_moved_or_added_are_noticed():
    sealed = seal(LARGE)
    head, size = read_head(sealed)[1], CHUNK_BYTES + 16
    chunks = [sealed[len(head) :][start : start + size] for start in range(0, len(sealed) - len(head), size)]
    assert len(chunks) > 3
    for wrong in (chunks[:-1], chunks[1:], [chunks[1], chunks[0], *chunks[2:]], [*chunks, chunks[-1]], []):
        broken(head + b"".join(wrong))


def test_another_accounts_file_is_noticed():
    broken(seal([b"one"]).replace(b"acc_1", b"acc_2"))


@pytest.mark.parametrize("sealed", [b"", b"{}\n", b"no json\n", b"\xff\n", b"x" * 5000])
def test_what_is_no_file_of_bodies(sealed):
    broken(sealed)
