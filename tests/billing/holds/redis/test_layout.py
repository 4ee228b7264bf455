"""Both halves of the packed layout agree, at every amount: what Python packs Lua reads, and the other way about."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing.holds.redis.layout import (
    ADMIT,
    HELD,
    ITEM,
    NO_EPOCH,
    PENDING,
    SETTLE,
    SETTLED,
    AccountState,
    Counter,
    Entry,
    HoldTags,
    KeyState,
    pack_hold,
    pack_tags,
    pack_text,
)
from billing.money import MAX_NANO
from tests.model.scripts import PlainScript, Scripts

amounts = st.one_of(
    st.integers(-MAX_NANO, MAX_NANO),
    st.sampled_from((10**14 - 1, 10**14, 10**14 + 1, 123_456_789_012_345, MAX_NANO, -MAX_NANO)),
)
counts = st.integers(0, MAX_NANO)
u32 = st.integers(0, 2**32 - 1)
counters = st.lists(st.builds(Counter, u32, u32, amounts, amounts), max_size=255).map(tuple)
account_states = st.builds(AccountState, u32, amounts, counts, counts, counts, counts, u32, u32, u32, counters)
key_states = st.builds(KeyState, u32, u32, u32, counters)
names = st.text(max_size=60)
tags = st.lists(st.integers(0, 2**31 - 1), max_size=64)

READ_AND_WRITE = PlainScript(
    "read_and_write",
    """
    write_account(KEYS[1], read_state(KEYS[1]))
    write_key(KEYS[2], read_state(KEYS[2]))
    local a = read_state(KEYS[1])
    return {a[A_BALANCE], a[A_HELD], a[A_DSEQ], a[A_XSEQ], a[A_HOLD_VERSION], (#a - A_COUNTERS + 1) / 4}
    """,
    with_state=True,
)
READS = PlainScript("reads", "return {read_state(KEYS[1]) and 1 or 0, read_state(KEYS[2]) and 1 or 0}", with_state=True)
PARSE = PlainScript(
    "parse",
    """
    local e = parse_entry(ARGV[1])
    if e.state == SETTLED then return {e.state, e.epoch, e.at_ms, e.dseq, e.account_id} end
    return {e.state, e.epoch, e.at_ms, e.cost, e.input, e.output, e.account_id, e.key_id, e.model, e.feature, e.gateway,
      e.account_tags, e.key_tags, e.user_tags or 'none', string.sub(ARGV[1], e.payload_at), retagged(ARGV[1], e)}
    """,
    with_state=True,
)
more = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def scripts(redis_url: str, key_prefix: str) -> Iterator[Scripts]:
    made = Scripts(redis_url, key_prefix, {"key_1": "acc_one"})
    yield made
    made.close()


@given(account=account_states, key=key_states)
@more
def test_states_come_back_byte_for_byte(scripts, account, key):
    assert AccountState.unpack(account.pack()) == account
    assert KeyState.unpack(key.pack()) == key
    places = [scripts.state_key("acc_one"), scripts.state_key("key_1")]
    scripts.command("MSET", places[0], account.pack(), places[1], key.pack())
    read = scripts.run(READ_AND_WRITE, places)
    assert read == [
        account.balance_nano,
        account.held_nano,
        account.dseq,
        account.xseq,
        account.hold_version,
        len(account.counters),
    ]
    assert scripts.command("MGET", *places) == [account.pack(), key.pack()]


@given(
    epoch=u32,
    at_ms=st.integers(0, 2**43),
    held=st.tuples(counts, counts, counts),
    texts=st.tuples(names, names, names, names, names),
    tags=st.builds(HoldTags, tags, tags, st.none() | tags),
    payload=st.binary(max_size=300),
)
@example(1, 2, (MAX_NANO, 10**14 + 1, 0), ("a", "k", "m" * 255, "", "é" * 127), HoldTags([], [1], None), b"")
@more
def test_a_hold_is_read_alike(
    scripts,
    epoch,
    at_ms,
    held,
    texts,
    tags,
    payload,
):
    packed = pack_hold(epoch, at_ms, held, b"".join(map(pack_text, texts)), tags, payload)
    assert packed[0] == (1 if tags.user is None else 2), "a hold that counts for no user is as it always was"
    assert Entry.unpack(packed) == Entry(
        HELD,
        epoch,
        at_ms,
        texts[0],
        payload,
        cost_nano=held[0],
        input_tokens=held[1],
        output_tokens=held[2],
        key_id=texts[1],
        gateway=texts[4],
        account_tags=tuple(tags.account),
        key_tags=tuple(tags.key),
        user_tags=None if tags.user is None else tuple(tags.user),
    )
    raw = [text.encode() for text in texts]
    of_user = b"none" if tags.user is None else tags.user
    assert scripts.run(PARSE, [b"none"], [packed]) == [
        HELD,
        epoch,
        at_ms,
        *held,
        *raw,
        tags.account,
        tags.key,
        of_user,
        payload,
        packed,
    ]


@given(epoch=u32, at_ms=st.integers(0, 2**43), dseq=counts, account=names, payload=st.binary(max_size=300))
@more
def test_a_settled_entry_is_read_alike(scripts, epoch, at_ms, dseq, account, payload):
    packed = struct.pack("<BBIqq", 1, SETTLED, epoch, at_ms, dseq) + pack_text(account) + payload
    assert Entry.unpack(packed) == Entry(SETTLED, epoch, at_ms, account, payload, dseq=dseq)
    assert scripts.run(PARSE, [b"none"], [packed]) == [SETTLED, epoch, at_ms, dseq, account.encode()]


def test_the_layout_is_the_one_that_is_stored():
    """Values in Redis outlive a release: their layout does not change by accident."""
    state = AccountState(1, -2, 3, 4, 5, 6, 7, 8, 9, (Counter(10 | PENDING, 11, 12, 13),))
    assert state.pack().hex() == (
        "02" "01000000" "feffffffffffffff" "0300000000000000" "0400000000000000" "0500000000000000"
        "0600000000000000" "07000000" "08000000" "09000000" "01" "0a000080" "0b000000" "0c00000000000000"
        "0d00000000000000"
    )  # fmt: skip
    assert KeyState(1, 2, 3, ()).pack().hex() == "0201000000020000000300000000"
    assert (ITEM.size, ADMIT.size, SETTLE.size) == (31, 69, 24)
    assert pack_tags([1, 2]).hex() == "020100000002000000"


def test_a_state_of_another_version_is_in_no_epoch_and_as_gone_for_the_scripts(scripts):
    account = AccountState(1, 2, 3, 4, 5, 6, 7, 8, 9, (Counter(10, 11, 12),)).pack()
    key = KeyState(1, 2, 3, (Counter(10, 11, 12),)).pack()
    older = [b"\x01" + account[1:-8], b"\x01" + key[1:-8]]
    assert AccountState.unpack(older[0]).epoch == KeyState.unpack(older[1]).epoch == NO_EPOCH
    places = [scripts.state_key("acc_one"), scripts.state_key("key_1")]
    scripts.command("MSET", places[0], older[0], places[1], older[1])
    assert scripts.run(READS, places) == [0, 0]


def test_a_pending_counter_says_so():
    assert Counter(8 | PENDING, 0, 0).pending
    assert not Counter(8, 0, 0).pending
