"""Bodies in memory: their bounds, and work on large ones off the event loop."""

import asyncio
import threading

import pytest

from gateway.config.defaults import BodySettings
from gateway.server.bodies import Bodies, TooManyBytes


def of(worker_bytes: int = 100, account_bytes: int = 60) -> Bodies:
    return Bodies(BodySettings(10, worker_bytes, account_bytes))


async def test_bytes_are_bounded_for_an_account_and_for_the_worker():
    bodies = of()
    first, second, other = bodies.of("a"), bodies.of("a"), bodies.of("b")
    for size in (10, 40):
        first.grow(size)
    second.grow(20)
    with pytest.raises(TooManyBytes, match="account"):
        second.grow(21)
    other.grow(40)
    with pytest.raises(TooManyBytes, match="gateway"):
        other.fit(41)
    assert bodies.size_bytes == 100
    first.release()
    other.grow(60)
    second.grow(40)
    assert bodies.size_bytes == 100
    for kept in (first, second, other):
        kept.release()
        kept.release()
    assert (bodies.size_bytes, bodies._by_account) == (0, {})


async def test_work_is_done_by_one_thread_and_what_it_raises_is_raised():
    bodies = of()
    running, most, threads = 0, 0, set()

    def work(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.current_thread())
        running -= 1
        if number == 3:
            raise ValueError("of the test")
        return number

    done = await asyncio.gather(*[bodies.in_thread("a", work, number) for number in range(6)], return_exceptions=True)
    assert [str(each) for each in done] == ["0", "1", "2", "of the test", "4", "5"]
    assert (most, len(threads)) == (1, 1)
    assert threading.current_thread() not in threads
    bodies.close()


async def test_who_leaves_takes_nobody_s_turn_and_nothing_piles_up():
    """One is cancelled while its work runs, one while it waits: the next begins when the thread is free, not before."""
    bodies = of()
    begun, go_on = threading.Event(), threading.Event()
    ran = []

    def long():
        begun.set()
        go_on.wait()
        ran.append("long")

    first = asyncio.create_task(bodies.in_thread("a", long))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(bodies.in_thread("a", ran.append, "second"))
    third = asyncio.create_task(bodies.in_thread("a", ran.append, "third"))
    await asyncio.sleep(0)
    for each in (first, second):
        each.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert first.cancelled()
    assert second.cancelled()
    assert ran == []
    assert bodies._thread._work_queue.qsize() == 0
    go_on.set()
    await third
    assert ran == ["long", "third"]
    bodies.close()
