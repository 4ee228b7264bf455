"""What an order becomes is decided by the last state alone, whichever were seen before it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from billing.money import NANO_PER_CENT
from billing.payments.orders import (
    Move,
    Moved,
    Order,
    is_lost,
    next_move,
    refusal_reason,
    share_nano,
    status_of,
    suspensions,
)
from billing.payments.port import Dispute, Movement, Payment, Refund

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ORDER = Order(**dict.fromkeys(Order.__slots__) | {"kind": "credit", "amount_cents": 2000, "status": "open"})
CREDITED = replace(ORDER, status="credited", payment_id="pi_1", credited_at=NOW)
CREDIT_NANO = 2000 * NANO_PER_CENT
PAID = Payment("pi_1", "paid", 2000, 2400, "usd", "cus_1", "ord_1", "here", False, NOW)


def refund(number: int, cents: int, status: str = "succeeded") -> Refund:
    return Refund(f"re_{number}", "pi_1", status, cents, "usd", NOW + timedelta(hours=number))


def dispute(status: str, *movements: Movement) -> Dispute:
    return Dispute("dp_1", "pi_1", status, 2400, "usd", NOW, movements)


def moves(payment: Payment, moved: dict[tuple[str, str], Moved], balance: int) -> list[Move]:
    """All transfers that a state needs, of which `moved` takes note; what is left is the balance."""
    made = []
    while (move := next_move(CREDIT_NANO, payment, moved, max(0, balance))) is not None:
        before = moved.get((move.kind, move.id), Moved())
        assert move.number == before.transfers + 1
        moved[move.kind, move.id] = Moved(before.nano + move.delta_nano, move.number, move.free_nano)
        balance += move.delta_nano
        made.append(move)
    return made


def test_only_what_was_asked_for_is_credited():
    assert refusal_reason(ORDER, PAID) is None
    assert refusal_reason(None, PAID) == "no order of ours has this id"
    assert refusal_reason(ORDER, replace(PAID, currency="eur")) == "it was paid in eur, not in usd"
    cut = replace(PAID, amount_cents=1500, total_cents=2000)
    assert refusal_reason(ORDER, cut) == "1500 cents were paid of an order of 2000"
    twice = refusal_reason(CREDITED, replace(PAID, id="pi_2"))
    assert twice == "the order was paid before, by another payment"


def test_an_order_is_called_what_its_payment_is():
    called = partial(status_of, parked=False)
    failed = replace(PAID, status="failed")
    assert called(ORDER, replace(PAID, status="processing")) == "open"
    assert called(ORDER, failed) == "failed"
    assert called(replace(ORDER, status="expired"), failed) == "expired"
    assert called(replace(CREDITED, kind="plan", credited_at=None, status="open"), PAID) == "paid"
    assert called(CREDITED, PAID) == "credited"
    assert status_of(ORDER, PAID, parked=True) == "parked"
    assert called(CREDITED, replace(PAID, refunds=(refund(1, 1200),))) == "credited"
    assert called(CREDITED, replace(PAID, refunds=(refund(1, 1200), refund(2, 1200)))) == "refunded"
    assert called(CREDITED, replace(PAID, refunds=(refund(1, 2400, "failed"),))) == "credited"
    assert called(CREDITED, replace(PAID, disputes=(dispute("lost"),))) == "disputed"
    assert called(CREDITED, replace(PAID, disputes=(dispute("warning"),))) == "credited"


def test_a_refund_takes_what_is_left_and_a_failed_one_gives_it_back():
    half = replace(PAID, refunds=(refund(1, 1200),))
    assert share_nano(CREDIT_NANO, PAID, 1200) == 1000 * NANO_PER_CENT  # taxes are never credit
    moved = {}
    (taken,) = moves(half, moved, 300 * NANO_PER_CENT)
    assert taken.delta_nano == -300 * NANO_PER_CENT
    assert moves(half, moved, 0) == []
    (given_back,) = moves(replace(PAID, refunds=(refund(1, 1200, "canceled"),)), moved, 0)
    assert (given_back.delta_nano, given_back.number) == (300 * NANO_PER_CENT, 2)
    assert moves(replace(PAID, refunds=(refund(1, 1200, "failed"),)), {}, 0) == []


def test_a_dispute_takes_its_whole_share_by_movement_and_suspends_once():
    withdrawn = Movement("txn_1", -2400, NOW)
    lost = replace(PAID, disputes=(dispute("open", withdrawn),))
    (taken,) = moves(lost, {}, 0)
    assert (taken.kind, taken.id, taken.delta_nano) == ("dispute", "txn_1", -2000 * NANO_PER_CENT)
    assert [len(each) for each in suspensions(PAID, lost)] == [1, 0]
    assert [len(each) for each in suspensions(lost, lost)] == [0, 0]
    won = replace(PAID, disputes=(dispute("won", withdrawn, Movement("txn_2", 2400, NOW)),))
    assert [len(each) for each in suspensions(lost, won)] == [0, 1]
    assert [len(each) for each in suspensions(None, won)] == [0, 0]
    assert sum(move.delta_nano for move in moves(won, {}, 0)) == 0
    for status in ("warning", "prevented"):
        assert suspensions(PAID, replace(PAID, disputes=(dispute(status),))) == ([], [])


def test_a_payment_is_lost_once_nothing_of_it_is_left_and_a_dispute_took_the_last():
    half, part = replace(dispute("lost"), amount_cents=1200), replace(dispute("lost"), amount_cents=2399)
    cases = (
        ((dispute("lost"),), (), True),
        ((dispute("open"),), (), False),
        ((part,), (), False),
        ((half,), (refund(1, 1200),), True),
        ((half,), (refund(1, 1200, "failed"),), False),
        ((half, replace(half, id="dp_2")), (), True),
        ((half, replace(half, id="dp_2", status="won")), (), False),
        ((), (refund(1, 2400),), False),
    )
    for disputes, refunds, lost in cases:
        assert is_lost(replace(PAID, disputes=disputes, refunds=refunds)) is lost, (disputes, refunds)


@st.composite
def timelines(draw: st.DrawFn) -> list[Payment]:
    """The states of a payment, one after the other: refunds that begin and may fail, a dispute that takes and may
    bring back."""
    states, payment = [PAID], PAID
    for hour in range(1, draw(st.integers(1, 7))):
        at = NOW + timedelta(hours=hour)
        step = draw(st.sampled_from(("refund", "fail", "withdraw", "reinstate")))
        open_refunds = [each for each in payment.refunds if each.status == "succeeded"]
        movements = payment.disputes[0].movements if payment.disputes else ()
        if step == "refund":
            payment = replace(payment, refunds=(*payment.refunds, refund(hour, draw(st.integers(1, 1500)))))
        elif step == "fail" and open_refunds:
            failed = draw(st.sampled_from(open_refunds))
            kept = tuple(replace(each, status="failed") if each is failed else each for each in payment.refunds)
            payment = replace(payment, refunds=kept)
        elif step == "withdraw" and not movements:
            taken = Movement("txn_1", -draw(st.integers(1, 2400)), at)
            payment = replace(payment, disputes=(dispute("open", taken),))
        elif step == "reinstate" and len(movements) == 1:
            back = replace(movements[0], id="txn_2", amount_cents=-movements[0].amount_cents, created_at=at)
            payment = replace(payment, disputes=(dispute("won", *movements, back),))
        states.append(payment)
    return states


def applied(states: list[Payment], used_cents: int) -> int:
    """What all of these states take from the account, applied one after the other; refunds never take more than was
    unspent."""
    moved: dict[tuple[str, str], Moved] = {}
    balance = unspent = (ORDER.amount_cents - used_cents) * NANO_PER_CENT
    for state in states:
        balance += sum(move.delta_nano for move in moves(state, moved, balance))
        assert -sum(each.nano for (kind, _), each in moved.items() if kind == "refund") <= unspent
    return balance


@given(timelines(), st.integers(0, 2000), st.data())
def test_states_that_are_missed_or_seen_twice_change_nothing(states, used_cents, data):
    seen = sorted(data.draw(st.lists(st.integers(0, len(states) - 1), max_size=8)))
    some = [states[number] for number in seen]
    assert applied([*some, states[-1]], used_cents) == applied(states, used_cents)
