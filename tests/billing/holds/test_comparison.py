"""Comparing by itself: agreement is silent, and each figure that differs is named with both amounts."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from billing.holds.reconcile import (
    AccountSnapshot,
    ComparedCounter,
    Drift,
    LedgerSnapshot,
    SubjectQuotas,
    WindowUsage,
    compare,
    current_counters,
    in_use,
)
from billing.holds.redis.layout import HELD, PENDING, AccountState, Counter, Entry, KeyState
from billing.quotas import Metric, Quota, Window, window_id

NOW_S = 1_800_000_000
EPOCH = 3
KEY = "key_a"
ACCOUNT_QUOTAS = tuple(Quota(window, metric, 10**12) for window in (Window.minute, Window.day) for metric in Metric)
KEY_QUOTAS = (Quota(Window.day, Metric.tokens, 10**9, "al*", "llm"), Quota(Window.total, Metric.cost, 10**9))
AMOUNT = st.integers(0, 10**9)
Usage = tuple[int, int, int, int, int]
USAGE = st.builds(
    lambda requests, inputs, outputs, cost: (requests, inputs + outputs, inputs, outputs, cost),
    AMOUNT,
    AMOUNT,
    AMOUNT,
    AMOUNT,
)


def by_tag(quotas: tuple[Quota, ...]) -> dict[int, Quota]:
    return {quota.tag: quota for quota in quotas}


def hold(cost_nano: int, input_tokens: int, output_tokens: int) -> Entry:
    return Entry(
        HELD,
        EPOCH,
        NOW_S * 1000,
        "acc_a",
        b"",
        cost_nano=cost_nano,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        key_id=KEY,
        account_tags=tuple(by_tag(ACCOUNT_QUOTAS)),
        key_tags=tuple(by_tag(KEY_QUOTAS)),
    )


HOLDS = st.lists(st.builds(hold, AMOUNT, AMOUNT, AMOUNT), max_size=4)


def compared_counter(key_id: str | None, quota: Quota, counter: Counter, holds: list[Entry]) -> ComparedCounter:
    if key_id is None:
        return ComparedCounter("account", "account", None, quota, counter, holds)
    return ComparedCounter("key", key_id, (key_id,), quota, counter, holds)


def counters(quotas: tuple[Quota, ...], key_id: str | None, holds: list[Entry], usage: WindowUsage) -> list[Counter]:
    """What Redis must have: what the ledger has used, and what the holds add."""
    found = []
    for quota in quotas:
        counter = Counter(quota.tag, window_id(quota.window, NOW_S), 0)
        compared = compared_counter(key_id, quota, counter, holds)
        running, held = in_use(compared)
        found.append(replace(counter, used=usage.used(compared) + running, held=held))
    return found


def agreed(balance_nano: int, dseq: int, holds: list[Entry], used: list[Usage]) -> tuple[AccountSnapshot, WindowUsage]:
    """An account in Redis as it should be by this usage of each window."""
    usage = WindowUsage()
    for window, amounts in zip((Window.minute, Window.day, Window.total), used, strict=True):
        usage.add(window, KEY, "alpha", "llm", amounts)
    account = tuple(counters(ACCOUNT_QUOTAS, None, holds, usage))
    held_nano = sum(each.cost_nano for each in holds)
    state = AccountState(EPOCH, balance_nano, held_nano, dseq, 5, 9, 1, NOW_S, len(holds), account)
    key = KeyState(EPOCH, 1, len(holds), tuple(counters(KEY_QUOTAS, KEY, holds, usage)))
    return AccountSnapshot(state, {KEY: key}, holds, steady=True), usage


def differences(redis: AccountSnapshot, balance_nano: int, debits: int, usage: WindowUsage) -> list[Drift]:
    compared = list(current_counters(redis, by_tag(ACCOUNT_QUOTAS), SubjectQuotas({KEY: by_tag(KEY_QUOTAS)})))
    ledger = LedgerSnapshot(balance_nano, debits, compared, usage)
    return [drift for drift in compare("acc_a", redis, ledger) if drift is not None]


@given(balance_nano=AMOUNT, dseq=AMOUNT, holds=HOLDS, used=st.lists(USAGE, min_size=3, max_size=3))
def test_stores_that_agree_differ_in_nothing(balance_nano, dseq, holds, used):
    redis, usage = agreed(balance_nano, dseq, holds, used)
    assert differences(redis, balance_nano, dseq, usage) == []


@given(
    holds=HOLDS,
    used=st.lists(USAGE, min_size=3, max_size=3),
    by=st.integers(-(10**6), 10**6).filter(bool),
    place=st.integers(0, len(ACCOUNT_QUOTAS) - 1),
    what=st.sampled_from(("balance", "debits", "held", "running", "used", "held of a window")),
)
def test_what_is_off_is_named_with_both_amounts(holds, used, by, place, what):
    redis, usage = agreed(100, 7, holds, used)
    state, counter = redis.state, redis.state.counters[place]
    fields = {"balance": "balance_nano", "debits": "dseq", "held": "held_nano", "running": "running"}
    if what in fields:
        before = getattr(state, fields[what])
        wrong = replace(state, **{fields[what]: before + by})
        expected = Drift("acc_a", what, before + by, before)
    else:
        name = "used" if what == "used" else "held"
        before = getattr(counter, name)
        changed = replace(counter, **{name: before + by})
        wrong = replace(state, counters=(*state.counters[:place], changed, *state.counters[place + 1 :]))
        quota = ACCOUNT_QUOTAS[place]
        window = f"account {quota.window.name}:{quota.metric.name}"
        expected = Drift("acc_a", window if name == "used" else f"{window} held", before + by, before)
    assert differences(replace(redis, state=wrong), 100, 7, usage) == [expected]


def test_of_an_account_that_changed_meanwhile_only_balance_and_debits_are_compared():
    redis, usage = agreed(100, 7, [hold(1, 2, 3)], [(1, 3, 2, 1, 4)] * 3)
    moved = replace(redis, state=replace(redis.state, held_nano=0, running=9, balance_nano=99), steady=False)
    assert list(current_counters(moved, by_tag(ACCOUNT_QUOTAS), SubjectQuotas({KEY: by_tag(KEY_QUOTAS)}))) == []
    assert differences(moved, 100, 7, usage) == [Drift("acc_a", "balance", 99, 100)]


def test_counters_that_say_something_else_are_not_compared():
    """Of another window, of a quota that is gone, not filled yet; a key of another epoch; newer quotas."""
    redis, _ = agreed(0, 0, [], [(0, 0, 0, 0, 0)] * 3)
    quota = ACCOUNT_QUOTAS[0]
    current = Counter(quota.tag, window_id(quota.window, NOW_S), 5)
    odd = (
        replace(current, window_id=current.window_id - 1),
        replace(current, tag=12345),
        replace(current, tag=current.tag | PENDING),
    )
    key = replace(redis.keys[KEY], epoch=EPOCH - 1)
    some = replace(redis, state=replace(redis.state, counters=(*odd, current)), keys={KEY: key})
    quotas, key_quotas = by_tag(ACCOUNT_QUOTAS), SubjectQuotas({KEY: by_tag(KEY_QUOTAS)})
    assert [each.counter for each in current_counters(some, quotas, key_quotas)] == [current]
    assert list(current_counters(some, None, key_quotas)) == []
    assert list(current_counters(replace(some, keys=redis.keys), None, SubjectQuotas())) == []


def test_a_window_has_what_its_filters_ask_for():
    usage, day = WindowUsage(), Window.day
    usage.add(day, KEY, "alpha", "llm", (1, 30, 10, 20, 300))
    usage.add(day, KEY, "beta", "llm", (1, 7, 3, 4, 70))
    usage.add(day, "key_b", "alpha", "image", (1, 5, 5, 0, 50))
    usage.add(day, KEY, "alpha", "llm", (-1, -3, -1, -2, -30))  # a debit that Redis had not counted

    def used(key_id, *quota):
        counter = Counter(0, 0, 0)
        return usage.used(compared_counter(key_id, Quota(day, *quota), counter, []))

    assert used(None, Metric.tokens, 10**9) == 34
    assert used(KEY, Metric.cost, 10**9) == 340
    assert used(None, Metric.tokens, 10**9, "al*", "llm") == 27
    assert used("key_b", Metric.tokens, 10**9, None, "image") == 5
    assert used("key_c", Metric.tokens, 10**9) == 0
