"""Months of subscriptions, which begin on the day of the first one, and what a change within one costs. Pure."""

from __future__ import annotations

import calendar
from datetime import datetime


def period_start(anchor: datetime, number: int) -> datetime:
    """Return when the `number`-th month since `anchor` begins: on its day, or on the last day of a month without it, so
    that a subscription of January 31 renews on February 28 and on March 31."""
    years, month = divmod(anchor.month - 1 + number, 12)
    year = anchor.year + years
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def period_of(anchor: datetime, at: datetime) -> tuple[datetime, datetime]:
    """Return the month of a subscription that `at` falls in."""
    number = max(0, (at.year - anchor.year) * 12 + at.month - anchor.month)
    if period_start(anchor, number) > at:
        number -= 1
    return period_start(anchor, max(0, number)), period_start(anchor, max(0, number) + 1)


def prorated_cents(cents: int, start: datetime, end: datetime, at: datetime) -> int:
    """Return what of a month's price the rest of the month from `at` on costs, to the cent below."""
    whole, rest = (end - start).total_seconds(), (end - at).total_seconds()
    return int(cents * max(0, int(rest)) // max(1, int(whole)))
