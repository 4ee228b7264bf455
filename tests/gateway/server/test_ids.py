"""Ids of requests, held against the library that other ids come from."""

import re
import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from gateway.server.ids import ALPHABET, BLOCK_BITS, CHANCE_BITS, COUNT_BITS, Ulids

RANDOM_BITS = 80  # https://github.com/ulid/spec
MILLISECONDS = st.integers(0, 2**48 - 1)
CHANCES = st.integers(0, 2**CHANCE_BITS - 1)


def test_time_chance_and_count_fill_an_id():
    assert CHANCE_BITS + COUNT_BITS == RANDOM_BITS


@given(now_ms=MILLISECONDS, chance=CHANCES)
def test_ids_are_the_ulids_of_their_millisecond_chance_and_count(now_ms, chance):
    asked = []

    def bits(count):
        asked.append(count)
        return chance

    made = Ulids(lambda: now_ms, bits)
    first = now_ms << RANDOM_BITS | chance << COUNT_BITS
    assert [made() for _ in range(40)] == [str(ULID.from_int(first + count)) for count in range(40)]
    assert asked == [CHANCE_BITS]


@given(moments=st.lists(MILLISECONDS, min_size=2, max_size=10), chances=st.lists(CHANCES, min_size=10, max_size=10))
def test_ids_are_ordered_by_their_millisecond(moments, chances):
    """Also when the clock goes back, and with any random part; within a millisecond they rise."""
    clock, chance = iter(moments), iter(chances)
    made = Ulids(lambda: next(clock), lambda _: next(chance))
    ids = [made() for _ in moments]
    for (first_ms, first), (second_ms, second) in pairwise(zip(moments, ids, strict=True)):
        assert (first_ms <= second_ms) == (first < second)


@given(again=st.integers(1, 3))
def test_a_clock_that_goes_back_gives_no_id_again(again):
    clock = iter([5, 5, 4, 5] * again)
    made = Ulids(lambda: next(clock))
    ids = [made() for _ in range(4 * again)]
    assert len(set(ids)) == len(ids)


def test_more_ids_in_a_millisecond_than_the_count_holds():
    made = Ulids(lambda: 1)
    ids = {made() for _ in range(100)}
    made._count = 2**COUNT_BITS - 50
    ids |= {made() for _ in range(100)}
    assert len(ids) == 200
    assert all(ULID.from_str(name).milliseconds == 1 for name in ids)


def test_ids_of_a_running_clock():
    made, before_ms = Ulids(), time.time_ns() // 1_000_000
    ids = [made() for _ in range(20_000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(f"[{ALPHABET}]{{26}}", name) for name in ids)
    moments = [ULID.from_str(name).milliseconds for name in ids]
    assert moments == sorted(moments)
    assert before_ms <= moments[0] <= moments[-1] <= after_ms


def test_two_makers_have_nothing_in_common():
    """As two processes have not: each seeds itself."""
    makers = [Ulids(lambda: 1) for _ in range(50)]
    assert len({made() for made in makers for _ in range(50)}) == 2_500


def test_every_bit_of_chance_is_used():
    clock = iter(range(0, 500 << BLOCK_BITS, 1 << BLOCK_BITS))
    made = Ulids(lambda: next(clock))
    chances = [int(ULID.from_str(made())) >> COUNT_BITS & 2**CHANCE_BITS - 1 for _ in range(500)]
    union = intersection = chances[0]
    for chance in chances:
        union, intersection = union | chance, intersection & chance
    assert (union, intersection) == (2**CHANCE_BITS - 1, 0)
