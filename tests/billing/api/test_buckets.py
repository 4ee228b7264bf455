"""Buckets of time in parts: followed to the end they are the whole, however little one part may have."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.api import usage
from billing.api.requests import page_asked
from billing.api.usage import Bucket, Steps, UsageReports, place_in, read_part, read_parts
from billing.ledger.catalogue import sync_prices
from billing.ledger.sums import Span, roll
from billing.pages import BadCursor
from billing.schemas.base import PageQuery
from billing.times import Period, zone_of
from billing.usage import Usage
from tests.billing.support import PRICES, Billing

FIRST, LAST = datetime(2026, 3, 27, 10, 1, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC)
PATH = "/account/usage/buckets"


async def spent(billing: Billing, account_id: str, key_id: str) -> None:
    """Have a day of many groups, days of few, and one of none."""
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-03-01', 2)")
    for n in range(24):
        await billing.debit(
            account_id,
            key_id if n % 5 else f"key_{n}",
            Usage(input_tokens=100 * (1 + n % 4)),
            admitted_at=FIRST + timedelta(hours=(0, 1, 2, 30, 60)[n % 5], minutes=n),
            model=f"model-{n % 7}",
            tags=json.dumps({"team": f"team-{n % 3}"}) if n % 4 else None,
        )
    await roll(billing.database, 3)


@pytest.fixture
async def account_id(billing: Billing) -> str:
    account_id = (await billing.accounts.create("Acme", credit_limit_nano=10**12)).id
    await spent(billing, account_id, "key_1")
    return account_id


def cells(found: list[Bucket]) -> list[tuple[object, ...]]:
    """Every group of every bucket, with what is said of both; of a bucket without groups its times."""
    return [(each.start, each.end, each.used, *group) for each in found for group in each.groups or [(None, None)]]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    most_cells=st.integers(1, 12),
    most=st.integers(1, 40),
    period=st.sampled_from([Period.hour, Period.day, Period.week]),
    names=st.sampled_from([(), ("key",), ("model", "key"), ("tag:team", "model"), ("node",)]),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
)
async def test_parts_joined_are_the_whole(billing, account_id, most_cells, most, period, names, zone):
    traffic = UsageReports(billing.reports.sums, lambda: LAST.timestamp())
    steps = Steps(account_id, FIRST, LAST, period, zone_of(zone), names)
    (whole,) = [part async for part in read_parts(traffic, steps)]
    joined: list[Bucket] = []
    with patch.object(usage, "MOST_CELLS", most_cells):
        in_parts = [each async for part in read_parts(traffic, steps) for each in part]
        while True:
            part = await read_part(traffic, steps, most)
            assert 0 < len(part.buckets) <= most
            assert sum(len(each.groups) for each in part.buckets) <= most_cells
            joined += part.buckets
            if part.cursor is None:
                break
            place = page_asked(PageQuery(cursor=part.cursor))[1]
            since, skip = place_in(place or "", FIRST, LAST)
            steps = Steps(account_id, since, LAST, period, zone_of(zone), names, skip)
    assert cells(joined) == cells(in_parts) == cells(whole)


class Watched(UsageReports):
    """Counts the groups that it reads."""

    groups = 0

    async def spans(self, *asked: Any, **more: Any) -> list[Span]:
        found = await super().spans(*asked, **more)
        self.groups += sum(map(len, found))
        return found


async def test_a_chart_by_a_tag_reads_no_bucket_time_and_again(billing, account_id):
    traffic = Watched(billing.reports.sums, LAST.timestamp)
    steps = Steps(account_id, FIRST, LAST, Period.hour, zone_of("UTC"), ("tag:team",), named=("team-1",))
    with patch.object(usage, "MOST_CELLS", 4):
        found = [each async for part in read_parts(traffic, steps) for each in part]
    assert traffic.groups == sum(len(each.groups) for each in found)


async def test_a_bucket_of_many_groups_goes_on_in_the_next_answer(api, monkeypatch):
    account, key = await api.customer(scopes=["billing:read"])
    await spent(api.billing, account["id"], key["id"])
    asked = {"since": "2026-03-27", "until": "2026-03-29", "group_by": "model"}
    whole = (await api.get(key["key"], PATH, **asked)).json
    assert whole["next_cursor"] is None
    monkeypatch.setattr(usage, "MOST_CELLS", 5)
    first = (await api.get(key["key"], PATH, **asked)).json
    second = (await api.get(key["key"], PATH, **asked, cursor=first["next_cursor"])).json
    third = (await api.get(key["key"], PATH, **asked, cursor=second["next_cursor"])).json
    (begun,), (ended,) = first["data"], second["data"]
    assert (len(begun["groups"]), len(ended["groups"])) == (5, 2)
    assert {**begun, "groups": [*begun["groups"], *ended["groups"]]} == whole["data"][0]
    assert {**ended, "groups": []} == {**begun, "groups": []}
    assert (third["data"], third["next_cursor"]) == (whole["data"][1:], None)


@pytest.mark.parametrize("place", ["x", "-60", "1774605660.", "1774605660.x", "9" * 99, "1774605661"])
def test_a_cursor_that_no_part_has_given_is_refused(place):
    assert place_in("1774605660.2000", FIRST, LAST) == (FIRST, 2000)
    with pytest.raises(BadCursor):
        place_in(place, FIRST, LAST)
