"""Facts and money are a matter of the set of points: in whatever order, pages and repetitions they come."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing.api.usage import UsageReports
from billing.collect.debits import MOST_BYTES, MOST_DEBITS, PAGES_AT_ONCE
from billing.collect.snapshots import MOST_COUNTED, Source, read_page
from billing.collect.subjects import SubjectRules
from billing.database.connection import queries
from billing.ledger.sums import UsageSums
from billing.money import ceil_div
from tests.billing.collect.support import NOW, START, Room, Sample, minutes_of, page_of

BEGIN = START + timedelta(minutes=57)
# Of two hours.
MOMENTS = st.integers(0, 9).map(lambda step: BEGIN + step * timedelta(seconds=25))
SAID = st.builds(
    Sample,
    node=st.sampled_from(["n1", "n2"]),
    at=MOMENTS,
    uuid=st.sampled_from(["a", "b"]),
    tag=st.sampled_from(["", "x"]),
    up=st.sampled_from([0, 1, 2, 5, 9, 100]),
    down=st.sampled_from([0, 3, 7]),
)
# 0.3 nano-USD.
PER_BYTE = 3 * 10**8
INCLUDED = 20
INITIAL = 1000
MOVED = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["c", "d"]), MOMENTS)
CLOCK_SET_BACK = [
    ([Sample("n1", BEGIN, "a", "", 0, 0)], None),
    ([Sample("n1", BEGIN, "b", "", 0, 0)], ("a", "c", BEGIN + timedelta(minutes=3))),
    ([Sample("n1", BEGIN, "b", "", 0, 0)], ("a", "d", BEGIN)),
    ([Sample("n1", BEGIN + timedelta(seconds=second), "a", "", second, 0) for second in (25, 210, 300)], None),
]
RULES = SubjectRules(initial_nano=INITIAL, included_bytes=INCLUDED)
numbers = itertools.count()


@dataclass
class Owned:
    """Whose a subject is: accounts that it was moved from, with when, and that it is of."""

    account: str
    before: list[tuple[datetime, str]] = field(default_factory=list)

    def move(self, account: str, at: datetime, newest: datetime) -> None:
        if account != self.account:
            until = max([max(at, newest).replace(second=0) + timedelta(minutes=1), *(each for each, _ in self.before)])
            self.before.append((until, self.account))
            self.account = account

    def of(self, minute: datetime) -> str:
        return next((account for until, account in self.before if minute < until), self.account)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.lists(SAID, min_size=1, max_size=8), st.none() | MOVED), min_size=1, max_size=5),
    st.sampled_from(["new", "new", "baseline", "zero"]),
)
@example(CLOCK_SET_BACK, "new")
async def test_facts_and_money_are_a_matter_of_the_set(billing, pages, rule):
    """Whatever is moved between accounts meanwhile, each minute is charged once, to the account that it is shown to."""
    number = next(numbers)
    room = Room(billing, f"s{number}", rule=rule, per_byte_scaled=PER_BYTE, rules=RULES)
    accounts = {name: (await billing.accounts.create(name)).id for name in ("c", "d")}
    owned = {}
    said = []
    for done, (page, move) in enumerate(pages):
        samples = [each._replace(uuid=f"{each.uuid}{number}") for each in page]
        said += samples
        await room.write(samples)
        if done % 2:
            await room.subjects.settle()
            await room.debits.round(NOW)
            for each in said:
                owned.setdefault(each.uuid, Owned(""))
        known = [each.at for each in said if move is not None and each.uuid == f"{move[0]}{number}"]
        if move is not None and known:
            uuid, account, at = f"{move[0]}{number}", accounts[move[1]], move[2]
            owned.setdefault(uuid, Owned(account)).move(account, at, max(known))
            await room.subjects.assign(uuid, account, at)
    again = await room.write(said)
    assert again.written_minutes == 0
    assert again.replayed_minutes > 0
    await room.subjects.settle()
    await room.debits.round(NOW)
    expected = minutes_of(said, rule)
    assert await room.minutes() == expected
    ids = {row["name"]: row["id"] for row in await billing.database.rows("SELECT id, name FROM accounts")}
    used = defaultdict(Counter)
    for (_, uuid, _, minute), (up, down) in expected.items():
        account = owned.get(uuid, Owned("")).of(minute) or ids[f"{uuid}@example.com"]
        used[account][minute] += up + down
    traffic = UsageReports(UsageSums(billing.database), NOW.timestamp)
    hours = [START, START + timedelta(hours=1), START + timedelta(hours=2)]
    for account, minutes in used.items():
        charged = ceil_div(max(0, minutes.total() - INCLUDED) * PER_BYTE, 10**9)
        assert (await billing.accounts.get(account)).balance_nano == INITIAL - charged
        spans = await traffic.spans(account, hours)
        shown = [sum(each.bytes for each in span.values()) for span in spans]
        assert shown == [sum(minutes[at] for at in minutes if at.hour == hour.hour) for hour in hours[:-1]]
    for table in ("growth", "grown", "due"):
        assert await billing.database.value(f"SELECT count(*) FROM collected_{table}") == 0  # noqa: S608


async def test_points_are_forgotten_by_age_and_late_ones_grow_from_the_last(billing):
    """Of each series the last point before the time of late ones stays."""
    room = Room(billing, "old")
    days = [Sample("n1", START + timedelta(days=day), "old", "", 10 * day, 0) for day in (0, 1, 30)]
    await room.write(days[:2])
    later = START + timedelta(days=40)
    assert [await room.facts.forget(later) for _ in range(2)] == [1, 0]
    page = read_page(json.dumps(page_of(days[2:])).encode(), room.source, later)
    before = await room.facts.checkpoint("old")
    await room.facts.write(room.source, page, before, before.after(page), later)
    (subject, *_) = (await room.subjects.page(1)).items
    assert (subject.uuid, subject.bytes) == ("old", 300)


async def test_late_snapshots_move_bytes_and_huge_counters_keep_nobody_waiting(billing):
    """What moves between hours is used once, in the ledger as in collection; sums above 64 bits are charged."""
    at = START + timedelta(minutes=58)
    room = Room(billing, "moved", per_byte_scaled=10**9, rules=SubjectRules(initial_nano=INITIAL))
    await room.write([Sample("n1", at, "mv", "", 0, 0), Sample("n1", at + timedelta(minutes=4), "mv", "", 100, 0)])
    await room.subjects.settle()
    assert (await room.debits.round(NOW)).debits == 1
    await room.write([Sample("n1", at + timedelta(minutes=1), "mv", "", 60, 0)])
    assert (await room.debits.round(NOW)).debits == 0
    ask = (
        "SELECT sum((e.counts->>'unit_thousandths')::numeric) / 1000 AS bytes, min(a.balance_nano) AS balance_nano,"
        " (SELECT count(*) FROM transfers AS t WHERE t.credit_account = s.account_id AND t.kind = 'refund') AS refunds"
        " FROM collected_subjects AS s JOIN accounts AS a ON a.id = s.account_id"
        " JOIN usage_events AS e ON e.account_id = a.id WHERE s.uuid = $1 GROUP BY s.account_id"
    )
    row = await billing.database.row(ask, "mv")
    assert (row["bytes"], row["balance_nano"], row["refunds"]) == (100, INITIAL - 100, 0)

    free = Room(billing, "huge")
    counts = (0, MOST_COUNTED) * 1100  # more than 64 bits have in all, of two hours
    await free.write(Sample("n1", START + timedelta(seconds=3 * at), "hg", "", up, up) for at, up in enumerate(counts))
    await free.write([Sample("n1", START + timedelta(minutes=30), "ot", "", 7, 0)])
    await free.subjects.settle()
    seen = {each.uuid: each for each in (await free.subjects.page(2)).items}
    assert seen["hg"].bytes == 2 * 1100 * MOST_COUNTED
    spans = await UsageReports(UsageSums(billing.database), NOW.timestamp).spans(
        str(seen["hg"].account_id), [START, START + timedelta(hours=2)]
    )
    assert sum(used.bytes for used in spans[0].values()) == seen["hg"].bytes
    rated = await free.debits.round(NOW)
    assert (rated.debits, rated.left) == (2 * MOST_DEBITS + 1, set())
    for uuid, count in (("hg", 2 * MOST_DEBITS * MOST_BYTES), ("ot", 7)):
        row = await billing.database.row(ask, uuid)
        assert row["bytes"] == count


def test_snapshots_of_impossible_times_are_set_aside():
    source = Source("s", "http://exporter", None, "eu")
    for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00"):
        page = page_of([Sample("n1", START, "a", "", 1, 1)])
        page["snapshots"][0]["collected_at"] = at
        read = read_page(json.dumps(page).encode(), source, NOW)
        assert (read.snapshots, read.set_aside) == ([], 1)


async def test_a_subject_that_moves_while_growth_is_folded_is_charged_once(billing):
    """What was known at the move is the former account's, however much of it another run is about to fold."""
    room = Room(billing, "race", per_byte_scaled=10**9, rules=SubjectRules(initial_nano=INITIAL))
    await room.write([Sample("n1", START, "rc", "", 0, 0)])
    await room.subjects.settle()
    (former,) = [each.account_id for each in (await room.subjects.page(1)).items]
    later = (await billing.accounts.create("Later")).id
    minutes = 2 * PAGES_AT_ONCE + 50
    await room.write(Sample("n1", START + timedelta(minutes=at), "rc", "", at, 0) for at in range(1, minutes + 1))
    async with billing.database.transaction() as connection:
        await connection.fetchval(queries("billing.collect")("fold_growth"), 1, PAGES_AT_ONCE)
        assert await room.subjects.assign("rc", later, START) == (1, {later})
    await room.debits.round(NOW)
    after = START + timedelta(minutes=minutes + 1)
    await room.write([Sample("n1", after, "rc", "", minutes + 7, 0)])
    assert await room.subjects.assign("rc", later, NOW) == (0, set())
    await room.debits.round(NOW)
    balances = [(await billing.accounts.get(str(each))).balance_nano for each in (former, later)]
    assert balances == [INITIAL - minutes, INITIAL - 7]
