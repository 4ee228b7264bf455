"""The order of waiting debits: those of locked accounts stand aside, and none is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from billing.holds.debit_writer import FIRST_PAUSE_S, LASTING_PAUSE_S, MOST_PAUSE_S, DebitQueue

Item = tuple[str, int]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(*items: Item) -> tuple[DebitQueue[Item], Clock]:
    clock = Clock()
    queue: DebitQueue[Item] = DebitQueue(lambda item: item[0], clock)
    for item in items:
        assert queue.add(item)
    return queue, clock


def test_a_locked_account_stands_aside_with_all_that_it_has() -> None:
    queue, clock = made(("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3))
    queue.done(queue.batch(2), {"a"})
    assert queue.ready == [("b", 2)]
    assert not queue.add(("a", 4))
    assert (len(queue), queue.count_locked("a"), queue.count_locked("b")) == (5, 4, 0)
    assert queue.locked == {"a"}
    assert queue.due_s == clock.now_s + FIRST_PAUSE_S
    assert queue.batch(10) == [("b", 2)]
    clock.now_s += FIRST_PAUSE_S
    assert queue.batch(10) == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 2)]
    assert queue.locked == {"a"}, "it is being tried"
    queue.done(queue.batch(10), set())
    assert (len(queue), queue.locked, queue.due_s) == (0, set(), None)


def test_the_pause_grows_and_is_forgotten_once_it_was_written() -> None:
    queue, clock = made(("a", 1))
    pauses = []
    for _ in range(10):
        queue.done(queue.batch(10), {"a"})
        assert queue.due_s is not None
        pauses.append(queue.due_s - clock.now_s)
        assert bool(queue.long_locked) == (pauses[-1] > LASTING_PAUSE_S)
        clock.now_s = queue.due_s
    assert pauses == sorted(pauses)
    assert abs(pauses[-1] - MOST_PAUSE_S) < 1e-6
    queue.done(queue.batch(10), set())
    queue.add(("a", 2))
    queue.done(queue.batch(10), {"a"})
    assert queue.due_s == clock.now_s + FIRST_PAUSE_S


def test_those_who_are_soon_to_be_tried_are_tried_together() -> None:
    queue, clock = made(("a", 1))
    for _ in range(8):
        queue.done(queue.batch(10), {"a"})
        assert queue.due_s is not None
        clock.now_s = queue.due_s
    queue.done(queue.batch(10), {"a"})
    clock.now_s += MOST_PAUSE_S * 0.6
    queue.add(("b", 1))
    queue.done(queue.batch(10), {"b"})
    clock.now_s += FIRST_PAUSE_S
    assert queue.batch(10) == [("a", 1), ("b", 1)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("add", "write", "wait")), st.sets(st.sampled_from("abc")))
    )
)
def test_every_item_is_written_once(steps: list[tuple[str, str, set[str]]]) -> None:
    queue, clock = made()
    added: list[Item] = []
    written: list[Item] = []
    for account, what, locked in steps:
        if what == "add":
            added.append((account, len(added)))
            queue.add(added[-1])
        elif what == "wait":
            clock.now_s += 0.3
        elif batch := queue.batch(2):
            found = {item[0] for item in batch} & locked
            queue.done(batch, found)
            written += [item for item in batch if item[0] not in found]
        assert sorted([*written, *queue]) == sorted(added)
        assert len(queue) == len(added) - len(written)
    clock.now_s += MOST_PAUSE_S
    while batch := queue.batch(2):
        queue.done(batch, ())
        written += batch
    assert sorted(written) == sorted(added)
