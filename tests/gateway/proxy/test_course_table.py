"""The table of a course's transitions: random lives drive every pair of a state and an event, and no other."""

import logging
import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from gateway.proxy.course import NEXT, Course, State
from tests.gateway.proxy.test_course import Life
from tests.support.compiled import on_sources

# Lives until every pair was driven; so many are by far not needed.
MOST_LIVES: Final = 6_000
STEPS: Final = 25
EVENTS: Final = frozenset(event for events in NEXT.values() for event in events)

Seen = dict[tuple[State, str], set[State]]


def watched(seen: Seen) -> type[Course]:
    """Courses that note what they are told from outside, in which state, and the state after that."""

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(Course, name)

        def told(self: Any, *given: Any) -> Any:
            before, self.depth = self.state, getattr(self, "depth", 0) + 1
            try:
                return real(self, *given)
            finally:
                self.depth -= 1
                if not self.depth:
                    seen.setdefault((before, name), set()).add(self.state)

        return told

    return type("Watched", (Course,), {name: noting(name) for name in EVENTS})


def live(seed: int, course_class: type[Course]) -> None:
    """Live one request at random, to its end."""
    dice, life = random.Random(seed), Life()  # noqa: S311  (the same each time)
    life.course_class = course_class
    life.has_usage, life.is_slow, life.is_unpaid = dice.random() < 0.6, dice.random() < 0.2, dice.random() < 0.1
    life.begin(*(dice.random() < 0.6 for _ in range(5)))
    if dice.random() < 0.2:
        life.a_transition_will_fail(dice.randrange(25))
    for _ in range(STEPS):
        steps = list(_steps(life, dice))
        dice.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()
    life.teardown()


def _steps(life: Life, dice: random.Random) -> Any:
    """Give what may happen next, each with how likely that is."""
    made = life.open_answer()
    yield 3, life.others_have_their_turn
    yield 1, lambda: life.the_client_takes_more_or_nothing(dice.random() < 0.5)
    if life.items:
        how = dice.choice(["ok", "ok", "ok", "ok", "refused", "missing", "away"])
        yield 4, lambda: life.redis_replies(how)
    if life.direct:
        yield 2, lambda: life.the_ledger_decides(dice.choice(["settled", "expired", "late"]))
    if life.provider.waiting:
        yield 2, lambda: life.a_connection_is_made(dice.random() < 0.6, dice.random() < 0.5)
    if made is not None:
        yield 1, lambda: life.the_provider_stops(dice.choice(["cut", "silent", "stale", "end"]))
        if not made.status:
            status = dice.choice([200, 200, 200, 200, 400, 401, 500])
            yield 3, lambda: life.the_head_comes(status, dice.random() < 0.4)
        elif made.status == 200 and life.pieces:
            yield 4, lambda: life.more_comes(dice.random() < 0.5)
    if not life.client.gone:
        yield 0.4, lambda: life.the_client_leaves(dice.random() < 0.5)
    else:
        yield 0.5, life.the_time_without_the_client_is_over


@on_sources
@pytest.mark.slow
def test_every_pair_of_the_table_is_driven_and_leads_where_it_says():
    logging.disable(logging.CRITICAL)
    seen: Seen = {}
    asked = {(state, event) for state, events in NEXT.items() for event in events}
    course_class = watched(seen)
    try:
        for seed in range(MOST_LIVES):
            live(seed, course_class)
            if seen.keys() >= asked:
                break
    finally:
        logging.disable(logging.NOTSET)
    assert asked - seen.keys() == set(), "these were never driven"
    for (state, event), after in seen.items():
        assert event in NEXT[state], f"{event} was told in {state}"
        assert after <= NEXT[state][event] | {state, "end"}, f"{event} in {state} leads to {after}"
