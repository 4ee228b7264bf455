"""When items go out: with what else the turn of the event loop brings, or at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from billing.holds.batch import Batcher, StaleEpoch
from billing.holds.epochs import Partition
from billing.holds.model import HoldSettings
from billing.holds.redis.connection import RedisAway, RedisError, RedisTimeout, Script, ServerSession
from billing.holds.redis.layout import Keyspace

TIMEOUT_S = 0.05
SETTINGS = HoldSettings(
    batch_items=3,
    max_unsettled=10,
    redis_timeout_s=TIMEOUT_S,
    settle_timeout_s=1.0,
    elastic_millionths=1_000_000,
    elastic_output_tokens=0,
)


class Item:
    """Says what came of it, however often that is."""

    def __init__(self, name: str) -> None:
        self.account_key, self.key_key = b"account", name.encode()
        self.user_key: bytes | None = None
        self.replies: list[Any] = []

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        return self.key_key

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        self.replies.append(reply)


class Broken(Item):
    """Fails to act on what came of it."""

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        super().resolve(reply, epoch)
        raise ZeroDivisionError("a fault in the program")


class Calls(ServerSession):
    """A connection whose calls are answered when the test decides."""

    def __init__(self) -> None:
        self.sent: list[Sequence[Any]] = []
        self.keys: list[Sequence[Any]] = []
        self.answers: list[Callable[[Any], None]] = []

    def call(
        self, script: Script, keys: Sequence[Any], arguments: Sequence[Any], on_reply: Callable[[Any], None]
    ) -> None:
        self.sent.append(arguments[1:])
        self.keys.append(keys)
        self.answers.append(on_reply)

    def answer(self) -> None:
        """Answer the oldest call that waits."""
        self.answers.pop(0)([[0]] * len(self.sent[-1 - len(self.answers)]))


class Agreed(Partition):
    """A partition with an agreed epoch."""

    def __init__(self, session: ServerSession) -> None:
        super().__init__(0, Keyspace("test", 1))
        self.session = session

    @property
    def epoch(self) -> int:
        return 1


@pytest.fixture
async def calls() -> Calls:
    return Calls()


@pytest.fixture
async def batcher(calls: Calls) -> Batcher:
    return Batcher(Agreed(calls), Script("hot"), SETTINGS)


async def alone(batcher: Batcher, calls: Calls) -> None:
    """One item by itself, and its answer."""
    batcher.submit(Item("alone"))
    await asyncio.sleep(0)
    calls.answer()
    calls.sent.clear()


async def test_items_of_one_turn_go_out_together_in_calls_of_bounded_size(batcher, calls):
    items = [Item(str(number)) for number in range(4)]
    for item in items:
        batcher.submit(item)
    assert calls.sent == []
    await asyncio.sleep(0)
    assert calls.sent == [[b"0", b"1", b"2"], [b"3"]]
    calls.answer()
    calls.answer()
    assert [item.replies for item in items] == [[[0]]] * 4


async def test_after_one_without_company_the_next_goes_out_at_once(batcher, calls):
    await alone(batcher, calls)
    batcher.submit(Item("next"))
    assert calls.sent == [[b"next"]]


async def test_what_comes_while_a_call_is_in_flight_is_gathered(batcher, calls):
    await alone(batcher, calls)
    for name in "abc":
        batcher.submit(Item(name))
    assert calls.sent == [[b"a"]]
    await asyncio.sleep(0)
    assert calls.sent == [[b"a"], [b"b", b"c"]]
    calls.answer()
    calls.answer()
    batcher.submit(Item("d"))  # the last ones had company
    assert calls.sent == [[b"a"], [b"b", b"c"]]
    await asyncio.sleep(0)
    assert calls.sent[2:] == [[b"d"]]


async def test_calls_without_an_answer_are_told_once_and_in_order(batcher, calls):
    items = [Item(str(number)) for number in range(2)]
    for item in items:
        batcher.submit(item)
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while not items[-1].replies:
            await asyncio.sleep(0.005)
    assert [type(item.replies[0]) for item in items] == [RedisTimeout] * 2
    calls.answer()
    calls.answer()  # too late
    assert [len(item.replies) for item in items] == [1, 1]


@pytest.mark.parametrize(
    ("answer", "kind"), [([[0]] * 3, list), ([], StaleEpoch), (RedisAway("it is away"), RedisAway)]
)
async def test_an_item_that_fails_to_act_on_its_reply_keeps_none_from_theirs(batcher, calls, caplog, answer, kind):
    """It is told, so that a settlement becomes a direct ledger write."""
    items = [Item("first"), Broken("broken"), Item("last")]
    for item in items:
        batcher.submit(item)
    await asyncio.sleep(0)
    calls.answers.pop()(answer)
    assert [[type(reply) for reply in item.replies] for item in items] == [[kind], [kind, RedisError], [kind]]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_without_an_epoch_one_that_fails_to_act_on_that_keeps_none_waiting():
    batcher = Batcher(Partition(0, Keyspace("test", 1)), Script("hot"), SETTINGS)
    items = [Broken("broken"), Item("last")]
    for item in items:
        batcher.submit(item)
    await asyncio.sleep(0)
    assert [[type(reply) for reply in item.replies] for item in items] == [[RedisAway, RedisError], [RedisAway]]


@pytest.mark.parametrize("count", [1, 2])
async def test_without_an_epoch_nothing_is_sent(calls, count):
    batcher = Batcher(Partition(0, Keyspace("test", 1)), Script("hot"), SETTINGS)
    items = [Item(str(number)) for number in range(count)]
    for item in items:
        batcher.submit(item)
    await asyncio.sleep(0)
    assert [type(reply) for item in items for reply in item.replies] == [RedisAway] * count


async def test_a_key_and_an_account_of_several_items_have_one_place_each():
    calls = Calls()
    batcher = Batcher(Agreed(calls), Script("hot"), SETTINGS)
    for name in "aba":
        batcher.submit(Item(name))
    await asyncio.sleep(0)
    (keys,) = calls.keys
    assert keys[2:] == [b"account", b"a", b"b"]
    await alone(batcher, calls)
    assert calls.keys[1][2:] == [b"account", b"alone"]
