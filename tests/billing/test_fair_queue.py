"""Turns at what accounts share: one account after the other, whoever is cancelled."""

import asyncio
from collections.abc import Iterator

import pytest

from billing.fair_queue import FairQueue
from gateway.config.defaults import BodySettings
from gateway.proxy.preparation import TURN_CHARACTERS, counted_tokens
from gateway.server.bodies import Bodies
from gateway.tokens import O200K, OFF_LOOP_CHARACTERS, Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    made = Tokenizer()
    made.count("both tests count by it", O200K)  # read before anything waits for it
    yield made
    made.close()


async def _queue(queue: FairQueue, names: str, served: list[str]) -> list[asyncio.Task[None]]:
    async def wait(name: str) -> None:
        await queue.acquire(name)
        served.append(name)

    tasks = [asyncio.create_task(wait(name)) for name in names]
    await asyncio.sleep(0)
    return tasks


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_accounts_have_their_turns_one_after_the_other():
    queue, served = FairQueue(2), []
    tasks = await _queue(queue, "aaaaabca", served)
    assert served == ["a", "a"]
    for _ in range(6):
        queue.release()
        await _settle()
    assert served[2:] == ["a", "b", "c", "a", "a", "a"]
    await asyncio.gather(*tasks)
    for _ in range(2):
        queue.release()
    assert (queue._free, dict(queue._waiting)) == (2, {})


async def test_a_turn_whose_request_is_gone_goes_to_the_next_one():
    """Cancelled while it waits, and in the moment in which it got its turn."""
    queue, served = FairQueue(), []
    tasks = await _queue(queue, "abcd", served)
    tasks[1].cancel()
    queue.release()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == ["a", "d"]
    queue.release()
    assert (queue._free, dict(queue._waiting)) == (1, {})


async def test_an_account_with_many_large_bodies_keeps_none_of_another_waiting_behind_them():
    bodies, order = Bodies(BodySettings(1, 1, 1)), []
    accounts = ["one", "one", "one", "one", "other"]
    await asyncio.gather(*[bodies.in_thread(name, order.append, name) for name in accounts])
    assert order == ["one", "one", "other", "one", "one"]
    bodies.close()


async def test_an_account_that_has_much_counted_keeps_nobody_waiting_behind_it(tokenizer):
    """Its texts are counted in turns, and other accounts have theirs in between, those whose answers were cut too."""
    text, done = "no word of this is read by anybody. " * (5 * TURN_CHARACTERS // 36), []

    async def count(account, text):
        await counted_tokens(len(text), [(text, len(text))], tokenizer, O200K, account)
        done.append(account)

    many = [asyncio.create_task(count("one", text)) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.gather(count("other", "word " * OFF_LOOP_CHARACTERS))
    assert done == ["other"]
    await tokenizer.count_off_loop("word " * OFF_LOOP_CHARACTERS, O200K, "third")
    assert done == ["other"]
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    await tokenizer.count_off_loop("word " * OFF_LOOP_CHARACTERS, O200K, "third")
    async with asyncio.timeout(60):
        while tokenizer._queue._free < 2:  # what was cut is counted to the end of its turn
            await asyncio.sleep(0.01)
    assert not tokenizer._queue._waiting


async def test_a_long_text_is_counted_in_turns_to_what_it_comes_to(tokenizer):
    text = "größer 😀 words, and more of them; " * (3 * TURN_CHARACTERS // 35)
    exact = len(tokenizer.encode(text, O200K))
    counted = await counted_tokens(len(text.encode()), [(text, len(text.encode()))], tokenizer, O200K)
    assert exact <= counted <= exact + 16 * (len(text) // 2048 + 4) + 32
