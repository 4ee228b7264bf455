"""What reads of sums take in a ledger of many events: `make bench ARGS="growth --grow reads=10000000"`.

The ledger is that of `crowd`, and the reads are its first account's, which has a tenth of the events.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from benchmarks.crowd import LARGE, STATEMENT_S, check, fill, fold_all
from benchmarks.figures import percentile
from benchmarks.machine import tree_cpu_s
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.ledger.reports import EventFilter, Reports
from billing.ledger.sums import BEGINNING, END, Grouping
from billing.times import Period, period_of, periods, zone_of

READS: Final = 9


def _spans(bounds: list[datetime], *names: str) -> Callable[[Reports], Awaitable[object]]:
    return lambda reports: reports.sums.spans(LARGE, bounds, Grouping(names))


def _last(many: int, period: Period, zone_name: str) -> list[datetime]:
    """The bounds of so many periods before now."""
    zone, now = zone_of(zone_name), datetime.now(UTC)
    days = {Period.minute: many / 1440, Period.hour: many / 24}.get(period, many)
    since = period_of(now - timedelta(days=days), period, zone)
    return [since, *islice(periods(since, period, zone), many)]


def queries() -> dict[str, Callable[[Reports], Awaitable[object]]]:
    """Reads as the API makes them; each is a column."""
    ever = [BEGINNING, END]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    odd = [now - timedelta(days=51, hours=5, minutes=17), now - timedelta(days=4, hours=9, minutes=31)]
    new_york, kolkata = "America/New_York", "Asia/Kolkata"
    rare = EventFilter(end_user="nobody")
    return {
        "ever_ms": _spans(ever),
        "odd_ms": _spans(odd, "model"),
        "odd_tag_ms": _spans(odd, "tag:project", "model"),
        "minutes_ms": _spans(_last(720, Period.minute, "UTC"), "model"),
        "hours_ms": _spans(_last(168, Period.hour, "UTC"), "model"),
        "hours_half_ms": _spans(_last(168, Period.hour, kolkata), "model"),
        "hours_two_ms": _spans(_last(84, Period.hour, "UTC"), "key", "model"),
        "days_ms": _spans(_last(31, Period.day, "UTC"), "model"),
        "days_ny_ms": _spans(_last(31, Period.day, new_york), "model"),
        "days_half_ms": _spans(_last(31, Period.day, kolkata), "user"),
        "days_tag_ms": _spans(_last(31, Period.day, new_york), "tag:team", "model"),
        "events_ms": lambda reports: reports.usage_events(LARGE, 50),
        "rare_ms": lambda reports: reports.usage_events(LARGE, 50, only=rare),
    }


async def reads(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """A ledger of each size, read by the account that has a tenth of it."""
    samples: list[Sample] = []
    for size in sizes:
        url = await stage.create_database(f"reads_{size}")
        await migrate(url)
        await fill(url, size, report)
        database = Database(url, size=1, timeout_s=STATEMENT_S)
        try:
            await fold_all(database, report)
            await database.execute("VACUUM ANALYZE")
            samples.append({"size": size, **await _read(stage, database, report)})
            await check(database)
        finally:
            await database.close()
    return samples


async def _read(stage: Stage, database: Database, report: Report) -> Sample:
    """Medians of READS, by the clock, and the most CPU of Postgres that one of them takes, both in milliseconds."""
    reports, sample, most_cpu = Reports(database), {}, 0.0
    for name, query in queries().items():
        await query(reports)
        took: list[float] = []
        cpu = tree_cpu_s(stage.postgres_pid)
        for _ in range(READS):
            start = time.perf_counter()
            await query(reports)
            took.append((time.perf_counter() - start) * 1000)
        cpu_ms = (tree_cpu_s(stage.postgres_pid) - cpu) * 1000 / READS
        sample[name] = percentile(took, 0.5)
        report(f"reads: {name} {sample[name]:.1f}, CPU of Postgres {cpu_ms:.1f} ms")
        most_cpu = max(most_cpu, cpu_ms)
    return {**sample, "most_cpu_ms": most_cpu}
