"""Rows as answers."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import pytest
from msgspec import UNSET, UnsetType

from billing.quotas import Metric, Quota, Window
from billing.schemas.base import Answer, Moment, Usd
from billing.schemas.quotas import QuotaShape


class Shown(Answer, frozen=True, kw_only=True):
    """An answer with a field of each kind."""

    id: str
    amount_usd: Usd
    refunded_usd: Usd
    charge_usd: Usd
    transaction_id: str | None
    created_at: Moment
    ended_at: Moment | None
    day: str
    names: list[str] | None
    tags: dict[str, str]
    quotas: list[QuotaShape]
    hint: str | UnsetType = UNSET


@dataclass(frozen=True)
class Row:
    """A row of the ledger."""

    id: str = "a"
    amount_nano: int = 1_500_000_000
    refunded_cents: int = 250
    charged_nano: int = -1
    transfer_id: str | None = None
    created_at: datetime = datetime(2027, 1, 31, 12, 30, tzinfo=UTC)
    ended_at: datetime | None = None
    day: date = date(2027, 1, 31)
    names: tuple[str, ...] | None = ("x", "y")
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Limits:
    """A row beside it."""

    id: str = "never"
    quotas: tuple[Quota, ...] = (Quota(Window.day, Metric.cost, 5),)


def test_fields_are_those_of_the_first_row_that_has_them():
    shown = Shown.of(Row(), Limits(), tags={"a": "b"})
    assert shown == Shown(
        id="a",
        amount_usd="1.50",
        refunded_usd="2.50",
        charge_usd="-0.000000001",
        transaction_id=None,
        created_at="2027-01-31T12:30:00.000Z",
        ended_at=None,
        day="2027-01-31",
        names=["x", "y"],
        tags={"a": "b"},
        quotas=[QuotaShape(window="day", metric="cost", limit="0.000000005")],
    )
    assert shown.hint is UNSET
    assert Shown.of(shown, hint="h").hint == "h"
    assert Shown.of(shown, created_at=Row().created_at) == shown


def test_a_field_that_no_row_has_is_missing():
    with pytest.raises(TypeError, match="quotas"):
        Shown.of(Row(), tags={})
    assert Shown.of(Row(names=None), Limits(), tags={}).names is None
