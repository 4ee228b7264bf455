"""What was used in spans of time and by groups, compared with events counted one by one."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.ledger import sums as rolling
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import UsageEvent
from billing.ledger.sums import (
    BEGINNING,
    END,
    OTHERS,
    TAG,
    Group,
    Grouping,
    Span,
    UsageQueryError,
    Used,
    UsedBy,
    compose,
    fold_step,
    roll,
    together,
    total,
)
from billing.ledger.verify import verify
from billing.times import Period, period_of, periods, zone_of
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
# Around these days clocks are set in New York, Berlin and on Lord Howe Island.
STARTS = (datetime(2026, 3, 7, tzinfo=UTC), datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 3, tzinfo=UTC))
MINUTES = st.integers(0, 60 * 24 * 800).map(lambda minutes: STARTS[0] + timedelta(minutes=minutes))
OF = {
    "model": lambda event: event.model,
    "key": lambda event: event.key_id,
    "user": lambda event: event.user_id,
    "provider": lambda event: event.provider,
    "endpoint": lambda event: event.endpoint,
    "feature": lambda event: event.feature,
    "tag:team": lambda event: event.tags.get("team"),
    "tag:run": lambda event: event.tags.get("run"),
    "tag:none": lambda event: None,
}


@given(st.lists(MINUTES, min_size=2, max_size=30, unique=True).map(sorted))
def test_spans_are_composed_of_whole_pieces(bounds):
    """Pieces are of whole units, and each span is exactly what its parts add up to."""
    for (since, until), parts in zip(pairwise(bounds), compose(bounds), strict=True):
        changes = defaultdict(int)
        for sign, piece in parts:
            assert piece.since < piece.until
            for at in (piece.since, piece.until):
                assert at == at.replace(second=0, microsecond=0)
                assert not (piece.granularity > 0 and at.minute)
                assert not (piece.granularity > 1 and at.hour)
                assert not (piece.granularity > 2 and at.day > 1)
            changes[piece.since] += sign
            changes[piece.until] -= sign
        assert {at: change for at, change in changes.items() if change} == {since: 1, until: -1}


def test_few_rows_are_read():
    """A year of days in New York: a day of UTC and at most five hours each."""
    zone = zone_of("America/New_York")
    bounds = list(islice(periods(datetime(2026, 1, 1, tzinfo=UTC), Period.day, zone), 366))
    pieces = {part.piece for parts in compose(bounds) for part in parts}
    hours = sum((piece.until - piece.since) / timedelta(hours=1) for piece in pieces if piece.granularity == 1)
    assert hours <= 366 * 5
    assert {piece.granularity for piece in pieces} == {1, 2}


@pytest.fixture
async def account_id(billing: Billing) -> str:
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-03-01', 9)")
    return (await billing.accounts.create("Acme", credit_limit_nano=10**15)).id


@pytest.fixture
async def events(billing: Billing, account_id: str) -> list[UsageEvent]:
    """Requests of every kind, a part of them rolled up, beside those of another account."""
    chosen = random.Random(7)  # noqa: S311
    other = (await billing.accounts.create("Other", credit_limit_nano=10**15)).id
    for number in range(240):
        start = chosen.choice(STARTS) + timedelta(hours=chosen.choice((0, 12, 24)))
        at = start + timedelta(milliseconds=chosen.randrange(36 * 3600 * 1000))
        tags = {name: chosen.choice("abc") for name in ("team", "run") if chosen.random() < 0.6}
        await billing.debit(
            other if number % 8 == 0 else account_id,
            chosen.choice(("key_1", "key_2")),
            Usage(input_tokens=chosen.randrange(1, 1000), cached_input_tokens=1, output_tokens=chosen.randrange(99)),
            admitted_at=at,
            model=chosen.choice(("fast", "slow")),
            user_id=chosen.choice(("ann", "bob", None)),
            endpoint=chosen.choice(("/v1/chat/completions", "/v1/embeddings")),
            feature=chosen.choice(("llm", "bytes")),
            tags=json.dumps(tags) if tags else None,
        )
        if number % 60 == 0:
            await roll(billing.database, 50)
    found: list[UsageEvent] = []
    after: str | None = None
    while True:
        page = await billing.reports.usage_events(account_id, 1000, after)
        found += page.items
        if (after := page.next_after) is None:
            return found


def counted(events: list[UsageEvent], bounds: list[datetime], names: tuple[str, ...]) -> list[Span]:
    """The same, one by one."""
    spans: list[Span] = [{} for _ in pairwise(bounds)]
    for event in events:
        for span, (since, until) in zip(spans, pairwise(bounds), strict=True):
            if since <= event.admitted_at < until:
                group = tuple(OF[name](event) for name in names)
                usage = event.usage
                used = Used(
                    1,
                    usage.input_tokens,
                    usage.cached_input_tokens,
                    usage.cache_write_tokens,
                    usage.output_tokens,
                    usage.reasoning_tokens,
                    event.cost_nano,
                    event.charged_nano,
                )
                span[group] = span.get(group, Used()).plus(used)
    return spans


def bounds_of(chosen: random.Random) -> list[datetime]:
    """The bounds of some local hours, days, weeks or months, or of some minutes."""
    zone, period = zone_of(chosen.choice(ZONES)), chosen.choice(list(Period)[1:])
    since = chosen.choice(STARTS) + timedelta(minutes=chosen.randrange(-600, 2000))
    many = {Period.hour: 30, Period.day: 5, Period.week: 4, Period.month: 6}[period]
    begins = since if chosen.random() < 0.3 else period_of(since, period, zone)
    return [begins, *islice(periods(begins, period, zone), chosen.randrange(1, many))]


async def assert_spent_by_keys(billing: Billing, account_id: str, events: list[UsageEvent]) -> None:
    """What keys were charged in a month is what their events of it were."""
    for month in (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)):
        found = await billing.reports.margins.spent_by_keys(
            [(key_id, account_id) for key_id in ("key_1", "key_2", "key_3")], month
        )
        (span,) = counted(events, [month, (month + timedelta(days=31)).replace(day=1)], ("key",))
        assert found == {key_id: span.get((key_id,), Used()).charged_nano for key_id in ("key_1", "key_2", "key_3")}
        assert sum(found.values())


def groupings() -> Iterator[tuple[str, ...]]:
    yield ()
    for name in OF:
        yield (name,)
        yield from ((name, other) for other in OF if other != name and not (name[:3] == other[:3] == "tag"))


NAMED = ["key_1", "ann", "", "fast", "openai"]


async def folded(billing: Billing, account_id: str, events: list[UsageEvent]) -> None:
    """Fold the hours before one in the middle, and say that the account is caught up."""
    middle = sorted(event.admitted_at for event in events)[len(events) * 2 // 3].replace(
        minute=0, second=0, microsecond=0
    )
    while await fold_step(billing.database, account_id, middle):
        pass
    assert (await verify(billing.database)).ok


def named_apart(span: Span, at: int) -> Span:
    """A span whose groups with a value at this place beyond `NAMED` are one."""

    def apart(group: Group) -> Group:
        return (*group[:at], group[at] if (group[at] or "") in NAMED else OTHERS, *group[at + 1 :])

    return together(*({apart(group): used} for group, used in span.items()))


async def assert_grouped(
    billing: Billing, account_id: str, events: list[UsageEvent], names: tuple[str, ...], bounds: list[datetime]
) -> list[Span]:
    """What is found is what events come to, also where few values of a dimension are told apart."""
    found = await billing.reports.sums.spans(account_id, bounds, Grouping(names))
    assert found == counted(events, bounds, names), (names, bounds)
    place = next((at for at, name in enumerate(names) if not name.startswith(TAG)), None)
    if place is not None:
        few = await billing.reports.sums.spans(account_id, bounds, Grouping(names), named=NAMED)
        assert few == [named_apart(span, place) for span in found], (names, bounds)
    return found


async def test_spans_and_groups_are_those_of_events(billing, account_id, events):
    chosen = random.Random(11)  # noqa: S311
    for names in groupings():
        bounds = bounds_of(chosen)
        found = await assert_grouped(billing, account_id, events, names, bounds)
        whole = await billing.reports.sums.spans(account_id, (bounds[0], bounds[-1]))
        assert total(whole[0]) == total({(str(place),): total(span) for place, span in enumerate(found)})
    await assert_spent_by_keys(billing, account_id, events)
    while await roll(billing.database, most_fresh=0):
        pass
    await folded(billing, account_id, events)
    await assert_spent_by_keys(billing, account_id, events)
    for names in groupings():
        await assert_grouped(billing, account_id, events, names, bounds_of(chosen))


async def test_of_one_key_user_or_feature(billing, account_id, events):
    ever = [BEGINNING, END]
    await folded(billing, account_id, events)
    for only, mine in (
        (UsedBy(key_id="key_1"), [event for event in events if event.key_id == "key_1"]),
        (UsedBy(user_id="ann"), [event for event in events if event.user_id == "ann"]),
        (UsedBy(user_id=""), [event for event in events if event.user_id is None]),
        (UsedBy(feature="bytes", key_id="key_2"), [e for e in events if (e.feature, e.key_id) == ("bytes", "key_2")]),
        (UsedBy(key_id="key_9"), []),
    ):
        assert mine or only.key_id == "key_9"
        found = await billing.reports.sums.spans(account_id, ever, Grouping(("model", "tag:team")), only)
        assert found == counted(mine, ever, ("model", "tag:team"))
        for names in ((), ("key",), ("user",), ("feature",), ("tag:team",), ("tag:run", "key"), ("user", "tag:team")):
            assert await billing.reports.sums.spans(account_id, ever, Grouping(names), only) == counted(
                mine, ever, names
            )


async def test_nothing_changes_while_rows_are_moved_and_folded(billing, account_id, events):
    """Rows that are moved after their hour is folded, most of them, are counted once all the same."""
    bounds = [STARTS[0], STARTS[1] + timedelta(hours=5, minutes=17), STARTS[2], END]
    ways = [("user", "tag:team"), ("user",), ("tag:team",), ()]
    expected = {names: counted(events, bounds, names) for names in ways}

    async def move():
        folds = islice(periods(STARTS[1], Period.hour, zone_of("UTC")), 0, None, 9)
        while await roll(billing.database, 7, most_fresh=0):
            assert await fold_step(billing.database, account_id, next(folds))

    moving = asyncio.create_task(move())
    reads = 0
    for names in cycle(ways):
        if moving.done():
            break
        assert await billing.reports.sums.spans(account_id, bounds, Grouping(names)) == expected[names], names
        reads += 1
    await moving
    assert reads > 3
    for names in ways:
        assert await billing.reports.sums.spans(account_id, bounds, Grouping(names)) == expected[names], names


async def test_values_beyond_the_first_are_one_group(billing, account_id, monkeypatch):
    monkeypatch.setattr(rolling, "TAG_VALUES", 2)
    for number in range(5):
        await billing.debit(account_id, "key_1", Usage(input_tokens=1), tags=json.dumps({"team": str(number)}))
    await billing.debit(account_id, "key_1", Usage(input_tokens=1), tags=None)
    await roll(billing.database, most_fresh=0)
    (span,) = await billing.reports.sums.spans(account_id, (BEGINNING, END), Grouping(("tag:team",)))
    assert {group[0]: used.requests for group, used in span.items()} == {"0": 1, "1": 1, OTHERS: 3, None: 1}


async def test_a_value_that_is_written_as_that_group_is_told_from_it(billing, account_id, monkeypatch):
    monkeypatch.setattr(rolling, "TAG_VALUES", 2)
    for team in (OTHERS, f"({OTHERS})", "third", "fourth"):
        await billing.debit(account_id, "key_1", Usage(input_tokens=1), tags=json.dumps({"team": team}))
    expected = {f"({OTHERS})": 1, f"(({OTHERS}))": 1, "third": 1, "fourth": 1}
    for rolled in (False, True):
        if rolled:
            await roll(billing.database, most_fresh=0)
            kept = await billing.database.rows("SELECT value FROM usage_tags WHERE value IS NOT NULL")
            shown = [f"({row['value']})" if "others" in row["value"] else row["value"] for row in kept]
            expected = {OTHERS: 2, **dict.fromkeys(shown, 1)}
        (span,) = await billing.reports.sums.spans(account_id, (BEGINNING, END), Grouping(("tag:team",)))
        assert {group[0]: used.requests for group, used in span.items()} == expected


async def test_names_of_tags_beyond_the_first_are_refused(billing, account_id):
    tags = json.dumps({f"name{number:02}": "x" for number in range(17)})
    await billing.debit(account_id, "key_1", Usage(input_tokens=1), tags=tags)
    await roll(billing.database, most_fresh=0)
    spans = billing.reports.sums.spans
    (span,) = await spans(account_id, (BEGINNING, END), Grouping(("tag:name15",)))
    assert list(span) == [("x",)]
    with pytest.raises(UsageQueryError, match="name00, name01"):
        await spans(account_id, (BEGINNING, END), Grouping(("tag:name16",)))


@pytest.mark.parametrize(
    "names", [("colour",), ("tag",), ("tag:",), ("model", "model"), ("model", "key", "user"), ("tag:a", "tag:b")]
)
def test_groups_that_there_are_not(names):
    with pytest.raises(UsageQueryError, match="group_by takes"):
        Grouping(names)


async def test_too_many_groups_are_refused(billing, account_id, events, monkeypatch):
    monkeypatch.setattr("billing.ledger.sums.MOST_ROWS", 3)
    assert await billing.reports.sums.spans("acc_none", (BEGINNING, END), Grouping(("model",)))
    with pytest.raises(UsageQueryError, match="too many groups"):
        await billing.reports.sums.spans(account_id, (BEGINNING, END), Grouping(("model", "user")))
