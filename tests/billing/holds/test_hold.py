"""A hold as a state machine: whatever is asked of it in whatever order, it ends once, and no illegal step is taken."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ulid import ULID

from billing.holds.model import (
    NEXT,
    OPEN,
    AdmissionTarget,
    Hold,
    IllegalTransition,
    Need,
    Rehold,
    Settlement,
    State,
)
from billing.ledger.debits import Debit

GRANTED = 20


def made() -> Hold:
    """A hold that was just admitted."""
    target, nobody = AdmissionTarget.__new__(AdmissionTarget), cast("Any", None)
    target.account_key, target.key_key, target.user_key = b"account", b"key", None
    hold = Hold(str(ULID()), target, Need(10, 100, 2, 1, 1, GRANTED), b"", nobody, nobody)
    hold.admit([0, GRANTED, 1, 900, 0], 1)
    return hold


def owed(hold: Hold) -> Debit:
    raise AssertionError("nobody settles it here")


def steps(loop: asyncio.AbstractEventLoop) -> dict[str, tuple[Callable[[Hold], None], State]]:
    """What can be asked of a hold, and the state that it leads to."""
    return {
        "owe": (lambda hold: hold.owe(owed), "owed"),
        "owe_nothing": (lambda hold: hold.owe_nothing(), "held"),
        "hand_over": (lambda hold: hold.enter("handed_over"), "handed_over"),
        "begin_settling": (lambda hold: hold.begin_settling(Settlement.__new__(Settlement)), "settling"),
        "settled": (lambda hold: hold.enter("settled"), "settled"),
        "refused": (lambda hold: hold.enter("refused"), "refused"),
        "voided": (lambda hold: hold.enter("voided"), "voided"),
        "kept": (lambda hold: hold.enter("lasting"), "lasting"),
    }


STEPS = ("owe", "owe_nothing", "hand_over", "begin_settling", "settled", "refused", "voided", "kept")


class Life(RuleBasedStateMachine):
    """Any calls in any order, beside a plain record of what has happened."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hold = made()
        self.closed = 0
        self.hold.on_closed = self.note_closed
        self.taken: list[str] = []
        self.moving: Rehold | None = None

    def note_closed(self) -> None:
        self.closed += 1

    def teardown(self) -> None:
        self.loop.close()

    @rule(name=st.sampled_from(STEPS))
    def step(self, name: str) -> None:
        ask, state = steps(self.loop)[name]
        before, outcome = self.hold.state, self.hold.outcome
        if state in NEXT[before]:
            ask(self.hold)
            assert self.hold.state == state
            self.taken.append(name)
        else:
            with pytest.raises(IllegalTransition, match=before):
                ask(self.hold)
            assert (self.hold.state, self.hold.outcome) == (before, outcome), "a refused step changes nothing"

    @rule(expired=st.booleans())
    def the_ledger_has_a_row(self, expired: bool) -> None:
        closed = self.closed
        self.hold.closed("expired" if expired else "settled")
        assert self.closed - closed == (expired and self.hold.is_open)

    @precondition(lambda self: self.moving is None)
    @rule()
    def begin_moving(self) -> None:
        async def begin() -> None:
            moving = Rehold([self.hold])
            if not self.hold.is_open:
                with pytest.raises(IllegalTransition):
                    moving.__enter__()
                assert self.hold.moving is None
                return
            moving.__enter__()
            self.moving = moving
            with pytest.raises(IllegalTransition):
                Rehold([self.hold]).__enter__()

        self.loop.run_until_complete(begin())

    @precondition(lambda self: self.moving is not None)
    @rule()
    def end_moving(self) -> None:
        waited_for = self.hold.moving
        assert waited_for is not None
        self.moving.__exit__()
        self.moving = None
        assert waited_for.done()

    @invariant()
    def it_ends_once(self) -> None:
        assert sum(self.taken.count(end) for end in ("begin_settling", "voided", "kept")) <= 1
        assert self.taken.count("settled") + self.taken.count("refused") <= self.taken.count("begin_settling")
        assert (self.hold.outcome is not None) == ("begin_settling" in self.taken)
        assert self.hold.is_open == (self.hold.state in OPEN)
        assert self.hold.is_open == (not {"begin_settling", "voided", "kept"} & set(self.taken))

    @invariant()
    def it_moves_while_it_is_held_again_and_no_longer(self) -> None:
        assert (self.hold.moving is None) == (self.moving is None)

    @invariant()
    def what_it_owes_is_known_once_a_provider_has_worked(self) -> None:
        owes = [name for name in self.taken if name in ("owe", "owe_nothing")][-1:] == ["owe"]
        assert (self.hold.owed_debit is not None) == owes


TestLife = Life.TestCase


def test_every_state_is_reached_and_left_as_the_table_says():
    """From the first state on; and what ends a hold is not left again."""
    reached = {"asked"}
    for _ in NEXT:
        reached |= {after for before in reached for after in NEXT[before]}
    assert reached == NEXT.keys()
    assert {state for state in NEXT if not NEXT[state]} == {"settled", "refused", "voided", "lasting"}
    assert all("settling" in NEXT[state] and "voided" in NEXT[state] for state in OPEN)


@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_its_state_is_the_last_step_that_was_taken(names):
    loop = asyncio.new_event_loop()
    try:
        hold, expected = made(), "held"
        for name in names:
            ask, state = steps(loop)[name]
            with suppress(IllegalTransition):
                ask(hold)
                expected = state
        assert hold.state == expected
    finally:
        loop.close()


def test_a_hold_that_is_given_back_is_not_settled():
    hold = made()
    hold.enter("voided")
    with pytest.raises(IllegalTransition, match=f"{hold.id} is voided: settling"):
        hold.begin_settling(Settlement.__new__(Settlement))
    assert hold.outcome is None
