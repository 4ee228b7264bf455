"""The scripts in Redis against the reference: any order of admissions, settlements, corrections, losses and epochs.

After every step the replies are the reference's, and so is every value in Redis; see `model_checks` for what else must
hold. All of it on two servers: the embedded Valkey, and Redis proper (`tests.support.servers.redis_proper_url`).
HYPOTHESIS_PROFILE=long looks longer, and shrinks what was found:

    HYPOTHESIS_PROFILE=long make test ARGS=tests/billing/holds/test_scripts.py
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from billing.holds.redis.client import RedisClient
from billing.holds.redis.layout import AHEAD_S, STEP_S, AccountState, Counter
from billing.quotas import Metric, Quota, Window, window_id
from tests.model.inputs import MODELS, OWNERS, asks, endings, forward_steps, picks, quotas
from tests.model.machine import ROOM, Machine
from tests.model.reference import (
    OK,
    RESTART_MS,
    WAITING,
    Admission,
    Amounts,
    Correction,
    Ledger,
    Names,
    Reference,
    Settlement,
    Void,
)
from tests.model.scripts import Scripts

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
# Examples of each machine by server, and their steps, by profile. Many look for an order that the scripts get wrong;
# that a server of another make carries a command out in another way shows in few.
SIZES = {"default": ({"valkey": 20, "redis": 4}, 40), "long": ({"valkey": 2000, "redis": 2000}, 80)}


class Restarts(Machine):
    """Redis goes and comes back all the time; gateways die with it, and what they sent arrives late. What the other
    machines try is left out, so that this comes more often."""

    something_rare = None
    end_again = None
    revoke = None

    @rule(kept=st.sampled_from(("all", "all", "older", "nothing")), killed=st.booleans(), pick=picks)
    def restart(self, kept: str, killed: bool, pick: int) -> None:
        """Redis comes back, and mostly opens at once."""
        self.new_epoch(kept, killed=killed, opened=pick % 4 > 0)

    @rule(items=st.lists(endings, min_size=1, max_size=3), kept=st.sampled_from(("all", "older")))
    @precondition(lambda self: self.running)
    def restart_under_way(self, items: list[Any], kept: str) -> None:
        """What gateways that died with Redis had sent arrives after it is back."""
        made = self.fitted(items)
        self.new_epoch(kept, killed=True, opened=True)
        self.call(made, ROOM)

    @rule()
    def snapshot_now(self) -> None:
        """Save Redis's state as its file on disk, with which it may come back later."""
        self.remember()

    @rule(pick=picks)
    @precondition(lambda self: self.requests)
    def rehold(self, pick: int) -> None:
        """A gateway holds a request again, perhaps late, perhaps a second time."""
        self.rehold_one(list(self.requests)[-1 - pick % min(len(self.requests), 6)])


class Quotas(Machine):
    """Quotas change and windows pass, while nothing is lost and the clock is never set back."""

    something_rare = None

    @rule(step=forward_steps)
    def advance(self, step: tuple[Any, int]) -> None:
        """The server's clock goes on, to just before or after a window's end."""
        self.step(step)

    @rule(key_id=st.sampled_from(tuple(OWNERS)), of_key=st.booleans(), drawn=quotas, step=forward_steps, used=picks)
    def adopt_and_wait(self, key_id: str, of_key: bool, drawn: Any, step: tuple[Any, int], used: int) -> None:
        """Time passes before the new counters are filled, with usage on both sides of it: what was used before is not
        counted in a window that has begun since."""
        subject, place = key_id if of_key else OWNERS[key_id], (key_id, MODELS[0])
        self.direct(place, used, told=True)
        self.set_quotas(subject, [drawn])
        self.adopt(subject, 0)
        self.step(step)
        self.direct(place, used, told=True)

    @rule(items=st.lists(asks, min_size=1, max_size=3), of_key=st.booleans(), drawn=quotas, step=forward_steps)
    def adopt_beside_holds(self, items: list[Any], of_key: bool, drawn: Any, step: tuple[Any, int]) -> None:
        """New counters begin while requests run that were admitted before, perhaps in an earlier window."""
        self.send(items, ROOM)
        self.step(step)
        subject = items[0].key if of_key else OWNERS[items[0].key]
        self.set_quotas(subject, [drawn])
        self.adopt_and_fill(subject)


def run(make: Callable[[], Machine], server: str) -> None:
    examples, length = SIZES[PROFILE]
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=examples[server],
            stateful_step_count=length,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[phase for phase in Phase if PROFILE == "long" or phase is not Phase.shrink],
        ),
    )


# Fixtures: the server of the run, and the other.
URLS = {"valkey": "redis_url", "redis": "redis_proper_url"}


@pytest.mark.parametrize("machine", [Machine, Restarts, Quotas])
@pytest.mark.parametrize("server", URLS)
def test_the_scripts_are_the_reference(server, machine, request):
    url = request.getfixturevalue(URLS[server])
    run(lambda: machine(url), server)


async def test_the_two_servers_are_two(redis_url, redis_proper_url):
    """Valkey names itself, whatever its `redis_version`; Redis does not."""
    identities = []
    for url in (redis_url, redis_proper_url):
        link = RedisClient(url)
        identities.append(await link.info("server"))
        await link.close()
    assert [server.get("server_name") for server in identities] == ["valkey", None]


ACCOUNT = "acc_one"
KEY = "key_1"
STORY_OWNERS = {KEY: ACCOUNT}
EPOCH = 1
DAY_S = 86_400
# Half past eleven at night of 1 March 2026, when the account is installed.
START_S = 1_772_323_200 + DAY_S - 1800
# Where the clock goes, and comes back from: the next day.
LATER_S = START_S + AHEAD_S
DAILY = Quota(Window.day, Metric.tokens, 1000, None, "llm")
# The window there.
LATER = window_id(Window.day, LATER_S)
NAMES = Names(ACCOUNT, KEY, "demo", "llm")


class Story:
    """One account of 10^6 nano-USD with a key, both without quotas, from START_S on. Clocks are Unix milliseconds."""

    def __init__(self, redis_url: str, prefix: str) -> None:
        self.real, self.ref, self.ledger = Scripts(redis_url, prefix, STORY_OWNERS), Reference(), Ledger(STORY_OWNERS)
        self.quotas: dict[str, tuple[Quota, ...]] = {ACCOUNT: (), KEY: ()}
        self.versions = {ACCOUNT: 1, KEY: 1}
        self.made = 0
        self.set_clock(START_S * 1000)
        self.ledger.grant(ACCOUNT, 10**6)
        self.same("fence", EPOCH, "life")

    def set_clock(self, now_ms: int) -> None:
        self.ref.now_ms = now_ms
        self.real.set_clock(now_ms)

    def open(self) -> None:
        assert self.real.set_open(EPOCH) == 1
        self.ref.open = True

    def install(self, with_key: bool = True) -> None:
        known = self.ref.account(ACCOUNT)
        now_s = self.ref.now_ms // 1000 if known is None else self.ref.now_of(known)
        account = self.ledger.load_account(ACCOUNT, EPOCH, now_s)
        assert self.same("install", EPOCH, account, self.ledger.load_key(KEY, EPOCH, now_s) if with_key else None) == 0

    def new_id(self) -> str:
        self.made += 1
        return f"{self.made:026d}"

    def adopt(self, subject: str, *quotas: Quota) -> tuple[str, list[int]]:
        """The next version of a subject's quotas; the same quotas are the same version. Answers token and reply."""
        if quotas != self.quotas[subject]:
            self.quotas[subject] = quotas
            self.versions[subject] += 1
        token, key_id = self.new_id(), KEY if subject == KEY else None
        reply = self.same("adopt", EPOCH, ACCOUNT, key_id, self.versions[subject], token, quotas)
        return token, reply

    def adopt_and_fill(self, subject: str, quota: Quota, base: int) -> None:
        token, reply = self.adopt(subject, quota)
        at = window_id(quota.window, reply[3] // 1000)
        assert self.same("fill", EPOCH, subject, token, [(quota.tag, at, base)]) == 0

    def ask(self, tokens: int) -> tuple[str, list[int]]:
        """An admission of input tokens alone. Answers the request's id and the reply."""
        request_id, versions = self.new_id(), (self.versions[ACCOUNT], self.versions[KEY])
        limits = (self.quotas[ACCOUNT], self.quotas[KEY])
        fixed = (0, 10, 0, tokens, 1, 0, 0, self.ref.now_ms, (0, 0), limits, b"payload")
        (reply,) = self.hot(Admission(request_id, NAMES, versions, *fixed))
        return request_id, reply

    def admit(self, tokens: int) -> tuple[str, int]:
        """One that is admitted. Answers the request's id and when."""
        request_id, reply = self.ask(tokens)
        assert reply[0] == OK
        return request_id, reply[2]

    def retime(self, latest_s: int = 0, stale: int = 0, ledger_off_s: int = 0) -> int:
        """As a gateway does that was told to wait; it may have seen the account earlier, or Postgres's clock be off."""
        arguments = (self.account_state().hold_version - stale, latest_s, self.ref.now_ms + ledger_off_s * 1000)
        reply: int = self.same("retime", EPOCH, ACCOUNT, *arguments)
        return reply

    def hot(self, *items: Admission | Settlement | Void) -> list[Any]:
        replies: list[Any] = self.same("hot", EPOCH, 1000, items)
        return replies

    def same(self, name: str, *arguments: Any) -> Any:
        """Call the script and the reference: one reply, one time of the account, the same counters."""
        answer, expected = getattr(self.real, name)(*arguments), getattr(self.ref, name)(*arguments)
        assert answer == expected
        dump, account, key = self.real.dump(), self.ref.account(ACCOUNT), self.ref.key(KEY)
        if account is not None:
            state = self.account_state()
            assert (state.now_s, state.counters) == (account.now_s, self.ref.counters(account))
        if key is not None:
            seen = dump.key(KEY)
            assert seen.counters == self.ref.counters(key)
        return answer

    def account_state(self) -> AccountState:
        state = self.real.dump().account(ACCOUNT)
        assert state is not None
        return state

    def counters(self, subject: str) -> tuple[Counter, ...]:
        if subject == ACCOUNT:
            return self.account_state().counters
        state = self.real.dump().key(KEY)
        return state.counters


@pytest.fixture
def story(redis_url: str, key_prefix: str) -> Iterator[Story]:
    told = Story(redis_url, key_prefix)
    yield told
    told.real.close()


@pytest.mark.parametrize("subject", [ACCOUNT, KEY])
def test_an_adopted_counter_keeps_its_window_when_the_clock_goes_back(story, subject):
    """A counter begins in the window of the account's time, which stays there: what was used there is not forgotten."""
    story.install()
    story.open()
    story.set_clock(LATER_S * 1000)
    story.adopt_and_fill(subject, DAILY, 600)
    story.set_clock(START_S * 1000)
    request_id, admitted_at_ms = story.admit(50)
    assert admitted_at_ms == LATER_S * 1000
    assert story.counters(subject) == (Counter(DAILY.tag, LATER, 600, 50),)
    story.hot(Settlement(request_id, NAMES, Amounts(10, 40, 0), b"debit"))
    story.set_clock(LATER_S * 1000 + 1000)
    story.admit(100)
    assert story.counters(subject) == (Counter(DAILY.tag, LATER, 640, 100),)


@pytest.mark.parametrize("subject", [ACCOUNT, KEY])
def test_an_admission_takes_no_counter_back_behind_a_correction(story, subject):
    """A debit of an earlier window than an adopted counter's is not counted there; nor does that window come again."""
    story.install()
    story.open()
    story.set_clock(LATER_S * 1000)
    story.adopt_and_fill(subject, DAILY, 0)
    story.set_clock(START_S * 1000)
    used, tags = Amounts(97, 2, 5), frozenset({DAILY.tag})
    row = Correction(2, -97, story.new_id(), KEY, START_S * 1000, "demo", "llm", used, tags, tags)
    assert story.same("apply", EPOCH, ACCOUNT, 1, [row]) == [0, 2]
    story.admit(185)
    assert story.counters(subject) == (Counter(DAILY.tag, LATER, 0, 185),)


def test_a_key_that_is_installed_later_keeps_its_window_when_the_clock_goes_back(story):
    story.ledger.quotas[KEY].append((DAILY,))
    story.quotas[KEY], story.versions[KEY] = (DAILY,), 2
    story.install(with_key=False)
    story.set_clock(LATER_S * 1000)
    story.install()
    story.open()
    story.set_clock(START_S * 1000)
    _, admitted_at_ms = story.admit(50)
    assert admitted_at_ms == LATER_S * 1000
    assert story.counters(KEY) == (Counter(DAILY.tag, LATER, 0, 50),)


def test_windows_stand_still_for_a_clock_that_is_an_hour_back_and_no_more(story):
    """Both edges: by a second more nothing is admitted, and nothing changes, until the account's time is set right."""
    story.install()
    story.open()
    story.set_clock(LATER_S * 1000)
    story.admit(10)
    story.set_clock((LATER_S - AHEAD_S) * 1000)
    assert story.admit(10)[1] == LATER_S * 1000
    assert story.account_state().now_s == LATER_S
    story.set_clock((LATER_S - AHEAD_S) * 1000 - 1)
    assert story.ask(10)[1] == [WAITING]
    assert story.account_state().now_s == LATER_S


def test_windows_that_lie_in_the_future_are_counted_anew_from_the_ledger(story):
    """Of the account and of its keys, each when it is next asked for; what was counted today is not forgotten."""
    story.install()
    story.open()
    future_s = START_S + 2 * DAY_S
    story.set_clock(future_s * 1000)
    for subject in (ACCOUNT, KEY):
        story.adopt_and_fill(subject, DAILY, 0)
    request_id, at_ms = story.admit(70)
    story.hot(Settlement(request_id, NAMES, Amounts(10, 70, 0), b"debit"))
    assert at_ms == future_s * 1000
    story.set_clock(START_S * 1000)
    assert story.ask(10)[1] == [WAITING]
    assert story.retime() == 0
    assert story.account_state().now_s == START_S
    today = window_id(Window.day, START_S)
    for subject in (ACCOUNT, KEY):
        assert story.ask(10)[1] == [WAITING]
        story.adopt_and_fill(subject, DAILY, 600)
        assert story.counters(subject) == (Counter(DAILY.tag, today, 600),)
    assert story.admit(50)[1] == START_S * 1000
    assert story.counters(KEY) == (Counter(DAILY.tag, today, 600, 50),)
    story.set_clock(LATER_S * 1000)
    story.admit(20)
    assert story.counters(KEY) == (Counter(DAILY.tag, today + 1, 0, 20),)


def test_an_accounts_time_is_not_set_by_a_clock_that_postgres_does_not_confirm(story):
    story.install()
    story.open()
    story.set_clock((START_S - 2 * DAY_S) * 1000)
    assert story.retime(ledger_off_s=AHEAD_S + 1) == 3
    assert story.retime(ledger_off_s=-AHEAD_S - 1) == 3
    assert story.account_state().now_s == START_S
    assert story.retime(ledger_off_s=AHEAD_S) == 0
    assert story.account_state().now_s == START_S - 2 * DAY_S


def test_an_accounts_time_is_set_right_from_a_minute_ahead_where_postgres_says_so_to_the_minute(story):
    story.install()
    story.open()
    story.set_clock((START_S - STEP_S) * 1000)
    assert story.retime() == 0
    assert story.account_state().now_s == START_S
    story.set_clock((START_S - STEP_S - 1) * 1000)
    assert story.retime(ledger_off_s=STEP_S + 1) == 3
    assert story.retime(ledger_off_s=-STEP_S - 1) == 3
    assert story.account_state().now_s == START_S
    assert story.retime(ledger_off_s=STEP_S) == 0
    assert story.account_state().now_s == START_S - STEP_S - 1


def test_an_accounts_time_is_not_set_behind_an_open_hold(story):
    """Its end corrects the window in which it was admitted."""
    story.install()
    story.open()
    story.adopt_and_fill(ACCOUNT, DAILY, 0)
    earlier, _ = story.admit(5)
    story.set_clock((START_S + DAY_S) * 1000)
    request_id, at_ms = story.admit(50)
    story.set_clock(START_S * 1000)
    assert story.retime(latest_s=at_ms // 1000) == 4
    assert story.retime(latest_s=START_S, stale=1) == 2
    story.hot(Settlement(request_id, NAMES, Amounts(10, 40, 0), b"debit"))
    assert story.retime(latest_s=START_S + 60) == 0
    assert story.account_state().now_s == START_S + 60
    story.adopt_and_fill(ACCOUNT, DAILY, 0)
    assert story.counters(ACCOUNT) == (Counter(DAILY.tag, window_id(Window.day, START_S), 0, 5),)
    story.hot(Settlement(earlier, NAMES, Amounts(10, 3, 0), b"debit"))
    assert story.counters(ACCOUNT) == (Counter(DAILY.tag, window_id(Window.day, START_S), 3),)


def test_a_lost_fill_is_not_waited_for_while_the_clock_is_behind_the_account(story):
    """The account's time stands still then; how long an adoption has waited goes by the server's clock."""
    story.install()
    story.adopt(KEY, DAILY)
    back_ms = (START_S - AHEAD_S) * 1000
    for now_ms, fresh in ((back_ms, 1), (back_ms + RESTART_MS - 1, 0), (back_ms + RESTART_MS, 1)):
        story.set_clock(now_ms)
        _, reply = story.adopt(KEY, DAILY)
        assert reply[3:] == [START_S * 1000, fresh]


def test_a_whole_batch_of_debits_is_forgotten_in_one_call(story):
    """The largest batch that can be configured is more than Lua's stack takes as the arguments of one command."""
    story.install()
    story.open()
    request_id, _ = story.admit(50)
    story.hot(Settlement(request_id, NAMES, Amounts(10, 40, 0), b"debit"))
    journal = story.real.keyspace.journal(0)
    entry = story.real.command("HGET", journal, request_id)
    others = [story.new_id() for _ in range(10_000)]
    for start in range(0, len(others), 1000):
        some = others[start : start + 1000]
        story.real.command("HSET", journal, *(part for other in some for part in (other, entry)))
    assert len(story.real.dump().journal) == 10_001
    assert story.real.ack(EPOCH, [(known, ACCOUNT, None) for known in (request_id, *others)]) == [0]
    assert story.real.dump().journal == {}


@pytest.mark.parametrize("subject", [ACCOUNT, KEY])
def test_gateways_that_know_different_quotas_do_not_undo_one_anothers_counters(story, subject):
    """At one version, as with two plan files while a release rolls out: both count on, however often each adopts."""
    other = Quota(Window.day, Metric.requests, 50, None, "llm")
    story.install()
    story.open()
    story.adopt_and_fill(subject, DAILY, 600)
    version, key_id = story.versions[subject], KEY if subject == KEY else None
    token = story.new_id()
    reply = story.same("adopt", EPOCH, ACCOUNT, key_id, version, token, (other,))
    assert reply[4] == 1
    at = window_id(other.window, reply[3] // 1000)
    assert story.same("fill", EPOCH, subject, token, [(other.tag, at, 3)]) == 0
    for asked in ((DAILY,), (other,), (DAILY,), (other, DAILY)):
        assert story.same("adopt", EPOCH, ACCOUNT, key_id, version, story.new_id(), asked)[4] == 0
    dump = story.real.dump()
    state = dump.key(KEY) if subject == KEY else dump.account(ACCOUNT)
    assert state is not None
    assert {counter.tag: counter.taken for counter in state.counters} == {DAILY.tag: 600, other.tag: 3}
    story.quotas[subject] = ()
    story.adopt(subject, other)
    dump = story.real.dump()
    state = dump.key(KEY) if subject == KEY else dump.account(ACCOUNT)
    assert state is not None
    assert [counter.tag for counter in state.counters] == [other.tag], "a newer version drops what it does not name"
