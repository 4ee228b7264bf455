"""The plan in force follows from the subscription's states, in any order of events; the credit of a paid invoice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billing.money import parse_usd
from billing.payments.port import Invoice, InvoiceLine, InvoiceStatus
from billing.payments.subscriptions import OWING, InForce, Seen, decide, included_credit, plan_change
from billing.plans import Plan

NOW = datetime(2028, 2, 29, 12, tzinfo=UTC)
GRACE = timedelta(days=10)
PLANS = {
    "free": Plan("free", "Free", 0),
    "starter": Plan("starter", "S", parse_usd("99"), included_credit_nano=parse_usd("50"), stripe_price="price_s"),
    "pro": Plan("pro", "Pro", parse_usd("299"), included_credit_nano=parse_usd("150"), credit_rolls_over=True),
}
PRICES = {"price_s": PLANS["starter"], "pro": PLANS["pro"]}
ACTIVE = Seen("sub_1", "active", "starter", NOW, NOW + timedelta(days=29), NOW)


def owing(since: datetime, **changes: object) -> Seen:
    return replace(ACTIVE, status="past_due", past_due_since=since, **changes)


def judged(*seen: Seen, now: datetime = NOW) -> InForce:
    return decide(seen, PLANS, "free", now, GRACE)


@st.composite
def states(draw: st.DrawFn) -> Seen:
    status = draw(st.sampled_from(["incomplete", "trialing", "active", "past_due", "unpaid", "paused", "canceled"]))
    since = NOW - timedelta(days=draw(st.integers(0, 20)))
    return Seen(
        f"sub_{draw(st.integers(0, 10**6))}",
        status,
        draw(st.sampled_from(["starter", "pro", "gone", None])),
        NOW,
        NOW + timedelta(days=30),
        NOW - timedelta(days=draw(st.integers(0, 3))),
        past_due_since=since if status in OWING else None,
    )


@given(st.lists(states(), max_size=5, unique_by=lambda each: each.id), st.randoms())
def test_the_order_of_states_changes_nothing(seen, random):
    expected = judged(*seen)
    shuffled = [*seen, *seen]
    random.shuffle(shuffled)
    assert judged(*shuffled) == expected
    paid = [each for each in seen if each.status in ("active", "trialing") and each.plan in PLANS]
    assert (expected.standing == "active") == bool(paid)
    if any(each.plan == "pro" for each in paid):
        assert expected.plan == "pro"
    if expected.standing in ("none", "downgraded"):
        assert expected.plan == "free"


def test_a_plan_ends_with_its_days_of_grace_and_no_sooner():
    since = NOW - GRACE
    assert judged(owing(since + timedelta(seconds=1))).standing == "past_due"
    ended = judged(owing(since))
    assert (ended.plan, ended.standing, ended.grace_until) == ("free", "downgraded", NOW)
    assert judged(owing(since), replace(ACTIVE, id="sub_2", plan="pro")).plan == "pro"  # another one is paid


def test_a_canceled_one_does_not_end_the_plan_of_another():
    old = replace(ACTIVE, id="sub_0", status="canceled", plan="pro")
    assert judged(old, ACTIVE).plan == "starter"
    assert judged(old) == InForce("free", "none")


def test_how_a_subscription_changes():
    def change(wanted, /, **current):
        return plan_change(replace(ACTIVE, **current), PLANS[wanted], PLANS)

    assert change("pro") == "now"
    assert change("starter", plan="pro") == "period_end"
    assert change("free") == "cancel"
    assert change("free", ends_at=NOW) == "nothing"
    assert change("starter") == "nothing"
    assert change("starter", ends_at=NOW) == "resume"
    assert change("starter", next_plan="free") == "resume"
    assert change("starter", plan="gone") == "now"


def invoice(*lines: InvoiceLine, status: InvoiceStatus = "paid") -> Invoice:
    absent = dict.fromkeys(("customer_id", "subscription_id", "payment_id", "order_id", "deployment"))
    total = sum(line.amount_cents for line in lines)
    return Invoice("in_1", status, **absent, amount_cents=max(total, 0), total_cents=max(total, 0), currency="usd",
                   lines=lines, livemode=False, created_at=NOW)  # fmt: skip


def line(line_id: str, kind: str, cents: int, price: str | None) -> InvoiceLine:
    return InvoiceLine(line_id, kind, cents, price, NOW, NOW + timedelta(days=29))


def test_a_paid_period_brings_its_credit_and_an_upgrade_the_difference():
    renewed = invoice(line("il_1", "subscription", 9900, "price_s"), line("il_2", "other", 500, None))
    (credit,) = included_credit(renewed, PRICES)
    assert (credit.line_id, credit.amount_nano) == ("il_1", parse_usd("50"))
    assert credit.expires_at == NOW + timedelta(days=29)
    assert included_credit(replace(renewed, status="open"), PRICES) == []
    assert included_credit(invoice(line("il_1", "subscription", 0, "price_s")), PRICES) == []  # a trial
    half = invoice(line("il_3", "proration", -4950, "price_s"), line("il_4", "proration", 14950, "pro"))
    (difference,) = included_credit(half, PRICES)
    assert (difference.line_id, difference.amount_nano) == ("il_4", parse_usd("50"))  # half of 150 less half of 50
    assert difference.expires_at is None
    back = invoice(line("il_5", "proration", 4950, "price_s"), line("il_6", "proration", -14950, "pro"))
    (returned,) = included_credit(back, PRICES)
    assert (returned.line_id, returned.amount_nano) == ("il_6", -parse_usd("50"))


@given(st.integers(1, 29_900), st.integers(1, 9_900))
def test_an_upgrade_never_brings_more_than_the_new_plan_has(charged, returned):
    lines = (line("il_1", "proration", -returned, "price_s"), line("il_2", "proration", charged, "pro"))
    given = included_credit(invoice(*lines), PRICES)
    assert sum(each.amount_nano for each in given) <= PLANS["pro"].included_credit_nano
    assert len(given) <= 1
