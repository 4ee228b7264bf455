"""Sums by dimension and tag: made by the roller of fresh rows, and verified."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.database.connection import Row
from billing.ledger import sums as rolling
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import BEGINNING, DIMENSIONS, END, Folds, Grouping, Roller, UsedBy, _left, _Read, compose, roll
from billing.ledger.verify import verify
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

USAGE = Usage(input_tokens=1000, cached_input_tokens=10, output_tokens=50, reasoning_tokens=20)
SUMS = """
SELECT n.name, v.value AS said, d.model, d.user_id, d.provider, d.endpoint, s.requests, s.input_tokens
FROM usage_sums AS s JOIN usage_dimensions AS d ON d.id = s.dimensions LEFT JOIN usage_tags AS n ON n.id = s.tag
LEFT JOIN usage_tags AS v ON v.id = s.value
WHERE s.granularity = $1
ORDER BY n.name NULLS FIRST, v.value NULLS LAST, d.model, d.user_id, d.endpoint
"""


@pytest.fixture
async def account_id(billing: Billing) -> str:
    await sync_prices(billing.database, PRICES)
    account = await billing.accounts.create("Acme", credit_limit_nano=10**12)
    return account.id


def minutes_ago(minutes: int) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


async def sums(billing: Billing, granularity: int = 3) -> list[tuple[object, ...]]:
    rows: list[Row] = await billing.database.rows(SUMS, granularity)
    return [tuple(row) for row in rows]


async def assert_verified(billing: Billing) -> None:
    verified = await verify(billing.database)
    assert verified.ok, verified


async def used(billing: Billing, account_id: str, *, at: datetime | None = None) -> None:
    """Requests of two users, two endpoints, and tags that some have."""
    at = at or minutes_ago(2)
    kinds = (
        ("key_1", "ann", "/v1/chat/completions", {"team": "blue", "job": "a"}),
        ("key_1", "ann", "/v1/chat/completions", {"team": "blue"}),
        ("key_1", "ann", "/v1/embeddings", {"team": "red"}),
        ("key_2", None, "/v1/chat/completions", None),
    )
    for number, (key_id, user_id, endpoint, tags) in enumerate(kinds):
        encoded = json.dumps(tags) if tags else None
        moment = at + timedelta(milliseconds=number)
        await billing.debit(
            account_id, key_id, USAGE, admitted_at=moment, user_id=user_id, endpoint=endpoint, tags=encoded
        )


EXPECTED = [
    (None, None, "fast", "", "openai", "/v1/chat/completions", 1, 1000),
    (None, None, "fast", "ann", "openai", "/v1/chat/completions", 2, 2000),
    (None, None, "fast", "ann", "openai", "/v1/embeddings", 1, 1000),
    ("job", "a", "fast", "ann", "openai", "/v1/chat/completions", 1, 1000),
    ("team", "blue", "fast", "ann", "openai", "/v1/chat/completions", 2, 2000),
    ("team", "red", "fast", "ann", "openai", "/v1/embeddings", 1, 1000),
]


async def test_fresh_rows_become_sums(billing, account_id):
    await used(billing, account_id)
    for moved in (3, 1, 0):
        assert await roll(billing.database, 3) == moved
        await assert_verified(billing)
    for granularity in range(4):
        assert await sums(billing, granularity) == EXPECTED
    await used(billing, account_id)
    assert await roll(billing.database) == 4
    assert await sums(billing) == [(*row[:6], 2 * row[6], 2 * row[7]) for row in EXPECTED]
    await assert_verified(billing)


async def test_names_and_values_of_tags_are_bounded(billing, account_id, monkeypatch):
    monkeypatch.setattr(rolling, "TAG_NAMES", 2)
    monkeypatch.setattr(rolling, "TAG_VALUES", 2)
    for number in range(6):
        tags = {"a": str(number), "b": "same", f"name{number}": "x"}
        await billing.debit(account_id, "key_1", USAGE, admitted_at=minutes_ago(2), tags=json.dumps(tags))
        if number % 2:
            assert await roll(billing.database) == 2
            await assert_verified(billing)
    assert [(row[0], row[1], row[6]) for row in await sums(billing)] == [
        (None, None, 6),
        ("a", "0", 1),
        ("a", "1", 1),
        ("a", None, 4),
        ("b", "same", 6),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE usage_sums SET requests = requests + 1 WHERE granularity = 2 AND tag = 0",
        "DELETE FROM usage_sums WHERE granularity = 0 AND tag <> 0",
        "UPDATE usage_dimensions SET provider = 'another'",
    ],
)
async def test_sums_that_are_none_are_found(billing, account_id, change):
    await billing.debit(account_id, "key_1", USAGE, admitted_at=minutes_ago(2))
    assert await roll(billing.database) == 1
    await billing.database.execute(change)
    found = {check.name: check for check in (await verify(billing.database)).checks if check.differences}
    assert set(found) - {"of all"} == {"rollups"}
    assert account_id in found["rollups"].examples[0]


async def test_tags_that_are_no_object_stop_nobody(billing, account_id):
    for tags in ("[1]", '"x"', "null", "{}"):
        await billing.debit(account_id, "key_1", USAGE, admitted_at=minutes_ago(2), tags=tags)
    assert await roll(billing.database) == 4
    await assert_verified(billing)
    assert [row[6] for row in await sums(billing)] == [4]


BY_NAMES = """
SELECT s.dimension_value, v.value, s.requests FROM usage_by_names AS s LEFT JOIN usage_tags AS v ON v.id = s.value
WHERE s.granularity = 3 AND s.dimension = $1 AND s.tag IN (0, $2)
ORDER BY 1, 2 NULLS FIRST
"""
AT_ONCE = timedelta(0)
CHANGED = "UPDATE usage_by_names SET requests = requests + 1 WHERE tag = $1 AND dimension = $2 AND granularity = 3"


async def test_hours_that_are_over_are_folded_and_late_requests_added(billing, account_id, monkeypatch):
    hours = [minutes_ago(60 * back) for back in (26, 5, 3, 2)]
    for at in hours[1:]:
        await used(billing, account_id, at=at)
    assert await roll(billing.database) == 12
    monkeypatch.setattr(rolling, "FOLD_AFTER", AT_ONCE)
    monkeypatch.setattr(rolling, "FOLD_FIRST", 10)
    assert await Folds(billing.database).round() == 0  # nine sums of hours: read as they are
    for name, value in {"FOLD_STEP": 1, "FOLD_STEPS": 2, "FOLD_FIRST": 9, "FOLD_S": 60.0}.items():
        monkeypatch.setattr(rolling, name, value)
    roller = Roller(billing.database, "me", interval_s=0.0)
    folded = "SELECT count(*) FROM usage_folds WHERE caught_up"
    for caught_up in (0, 0, 1):  # two hours a round, of five
        assert await roller.round() == 0
        assert await billing.database.value(folded) == caught_up
        await assert_verified(billing)
    await used(billing, account_id, at=hours[0])  # late, before all that was folded
    last = minutes_ago(2)  # of the hour that runs, or in its first minutes of one that was folded, too
    of_each = 4 if last.hour == datetime.now(UTC).hour else 5
    await used(billing, account_id, at=last)
    assert await roll(billing.database) == 8
    await assert_verified(billing)
    team = await billing.database.value("SELECT id FROM usage_tags WHERE name = 'team' AND value IS NULL")
    expected = {
        0: [("", None, 4), ("", "blue", 2), ("", "red", 1)],
        2: [("", None, 1), ("ann", None, 3), ("ann", "blue", 2), ("ann", "red", 1)],
        5: [
            ("/v1/chat/completions", None, 3),
            ("/v1/chat/completions", "blue", 2),
            ("/v1/embeddings", None, 1),
            ("/v1/embeddings", "red", 1),
        ],
    }
    for dimension, each in expected.items():
        rows = await billing.database.rows(BY_NAMES, dimension, team)
        assert list(map(tuple, rows)) == [(of, said, of_each * requests) for of, said, requests in each]
    ever = (BEGINNING, END)
    for grouping, ann, used_by in (
        (Grouping(("tag:team", "user")), ("blue", "ann"), UsedBy()),
        (Grouping(("tag:team",)), ("blue",), UsedBy(user_id="ann")),
    ):
        (span,) = await billing.reports.sums.spans(account_id, ever, grouping, used_by)
        assert span[ann].requests == 10
        await billing.database.execute(CHANGED, team, 2)
        (span,) = await billing.reports.sums.spans(account_id, ever, grouping, used_by)
        assert span[ann].requests > 10  # what is wrong there is what is read
        checks = {check.name: check for check in (await verify(billing.database)).checks if check.differences}
        assert set(checks) == {"by names"}
        assert f"{account_id}, user=ann, tag team=blue, month " in checks["by names"].examples[0]
        await billing.database.execute(CHANGED.replace("+", "-"), team, 2)
    await assert_verified(billing)


async def test_folding_changes_no_report_by_two_names(billing, account_id, monkeypatch):
    """Whatever their values are, in either order, with what is late and what is fresh."""
    values = ("", "1:", "10:a", "é\u2028", "a" * 12)
    at = minutes_ago(180).replace(second=0, microsecond=0)
    for number, (user_id, endpoint) in enumerate(itertools.product(values, values[1:])):
        moment = at + timedelta(milliseconds=number)
        key_id = f"key_{number % 2}"
        await billing.debit(account_id, key_id, USAGE, admitted_at=moment, user_id=user_id or None, endpoint=endpoint)
    assert await roll(billing.database) == 20
    monkeypatch.setattr(rolling, "FOLD_AFTER", AT_ONCE)
    monkeypatch.setattr(rolling, "FOLD_FIRST", 1)
    assert await Folds(billing.database).round() > 0
    await billing.debit(account_id, "key_1", USAGE, admitted_at=at, user_id="1:", endpoint="10:a")
    assert await roll(billing.database) == 1
    await billing.debit(account_id, "key_1", USAGE, admitted_at=minutes_ago(1), user_id="10:a", endpoint="1:")
    await assert_verified(billing)
    bounds = (at - timedelta(days=2), at + timedelta(minutes=1), END)
    pairs = [Grouping(names) for names in itertools.permutations(DIMENSIONS, 2)]
    folded = [await billing.reports.sums.spans(account_id, bounds, pair) for pair in pairs]
    await billing.database.execute("TRUNCATE usage_folds, usage_by_names")
    assert [await billing.reports.sums.spans(account_id, bounds, pair) for pair in pairs] == folded


async def test_no_account_holds_up_others_and_values_of_tags_count(billing, account_id, monkeypatch):
    """Few accounts are looked at at once, one that fails is passed over, and an hour with many values of a tag is
    folded by itself."""
    other = await billing.accounts.create("Other", credit_limit_nano=10**12)
    hours = [minutes_ago(60 * back) for back in (2, 3, 4)]
    for at, team, account in itertools.product(hours, "abc", (account_id, other.id)):
        await billing.debit(account, "key_1", USAGE, admitted_at=at, tags=json.dumps({"team": team}))
    assert await roll(billing.database) == 18
    for name, value in {"FOLD_STEP": 2, "FOLD_FIRST": 3, "FOLD_AFTER": AT_ONCE, "FOLD_S": 60.0}.items():
        monkeypatch.setattr(rolling, name, value)
    await billing.database.execute(
        f"ALTER TABLE usage_by_names ADD CONSTRAINT broken CHECK (account_id <> '{other.id}')"
    )
    folds = Folds(billing.database)
    assert await folds.round() + await folds.round() == 4  # three hours, and until now
    folded = "SELECT account_id FROM usage_folds WHERE caught_up"
    assert [row["account_id"] for row in await billing.database.rows(folded)] == [account_id]
    await billing.database.execute("ALTER TABLE usage_by_names DROP CONSTRAINT broken")
    monkeypatch.setattr(rolling, "FOLD_LOOKED_AT", 0)
    assert await Folds(billing.database).round() == 0
    monkeypatch.setattr(rolling, "FOLD_LOOKED_AT", 9)
    assert await Folds(billing.database).round() == 4
    await assert_verified(billing)


MINUTES = st.integers(0, 60 * 24 * 800).map(
    lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@given(st.lists(MINUTES, min_size=2, max_size=9, unique=True).map(sorted), MINUTES)
def test_what_is_not_folded_is_read_in_few_pieces(bounds, moment):
    """However long ago the last hour was folded, and each moment after it in one of them."""
    until = moment.replace(minute=0)
    for part in itertools.chain(*compose(bounds)):
        piece = _Read(*part.piece, 1, part.sign)
        left = list(_left(piece, until))
        if piece.granularity == 0 or piece.since >= until:
            assert left == [piece]
            continue
        ends = [until, *(each.until for each in left)]
        assert [each.since for each in left] == ends[:-1]
        assert ends[-1] == max(until, piece.until)
        for each in left:
            assert each == piece._replace(granularity=each.granularity, since=each.since, until=each.until)
            assert not (each.granularity > 1 and (each.since.hour or each.until.hour))
            assert not (each.granularity > 2 and (each.since.day > 1 or each.until.day > 1))
            assert each.granularity == piece.granularity or each.until - each.since <= timedelta(
                days=(0, 1, 31)[each.granularity]
            )
