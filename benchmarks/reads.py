"""What reads of sums take in a ledger of many events: `make bench ARGS="growth --grow reads=10000000"`.

A tenth of the events are one account's, of DAYS: 20 keys of 5 users, each with three of eight models, tags of 5 teams
and 20 projects. The others are of 999 accounts. They are written by SQL under the schema before the sums, and
`migrate` makes these of them, as it does when an installation is upgraded: what that takes is measured, too.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from benchmarks.crowd import fold_all
from benchmarks.figures import percentile
from benchmarks.machine import tree_cpu_s
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample, Unsound
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.ledger.reports import EventFilter, Reports
from billing.ledger.used import BEGINNING, END, Grouping, total
from billing.zones import Period, period_of, periods, zone_of

DAYS: Final = 90
STEP_ROWS: Final = 500_000
READS: Final = 9
STATEMENT_S: Final = 3600.0
BEFORE_SUMS: Final = 15
"""The last migration before the sums."""
ACCOUNT: Final = "acc_01M80000000000000000000000"
FILL: Final = """
INSERT INTO usage_events (request_id, admitted_at, outcome, account_id, user_id, key_id, upstream_request_id, endpoint,
    feature, model, provider, provider_model, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, cost_nano, charged_nano, price_id, markup_scaled, estimated, status, stream, latency_ms, tags,
    epoch, dseq)
SELECT '01M8' || lpad(n::text, 22, '0'), at, 'settled', 'acc_01M8' || lpad(account::text, 22, '0'),
    CASE WHEN account = 0 THEN 'usr_' || key % 5 END, 'key_01M8' || lpad((account * 100 + key)::text, 22, '0'),
    'req_4f1c0f6ea8b1c5b4', (ARRAY['/v1/chat/completions', '/v1/messages', '/v1/responses'])[1 + model % 3], 'llm',
    'model-' || model, 'provider-' || model % 3, 'model-' || model, 100 + n % 900, n % 50, 0, 50 + n % 200, 0,
    1000 + n % 100000, 1200 + n % 100000, 'price_30eb9ef80b9b50d83ef73cb1', 0, false, 200, n % 3 = 0, 500,
    CASE WHEN account = 0 THEN jsonb_build_object('team', 'team' || key % 5, 'project', 'project' || h3 % 20) END, 1, n
FROM (
    SELECT n, $3::timestamptz + (n::float8 / $4) * $5::interval AS at, h3,
        CASE WHEN h1 % 10 = 0 THEN 0 ELSE 1 + h2 % 999 END AS account,
        CASE WHEN h1 % 10 = 0 THEN h2 % 20 ELSE 0 END AS key,
        CASE WHEN h1 % 10 = 0 THEN (h2 % 20 + h3 % 3) % 8 ELSE h3 % 3 END AS model
    FROM (SELECT n, abs(hashint8(n)::bigint) AS h1, abs(hashint8(n * 7 + 1)::bigint) AS h2,
        abs(hashint8(n * 11 + 2)::bigint) AS h3 FROM generate_series($1::bigint, $2::bigint) AS n) AS hashed
) AS chosen
"""


def _spans(bounds: list[datetime], *names: str) -> Callable[[Reports], Awaitable[object]]:
    return lambda reports: reports.sums.spans(ACCOUNT, bounds, Grouping(names))


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
        "events_ms": lambda reports: reports.usage_events(ACCOUNT, 50),
        "rare_ms": lambda reports: reports.usage_events(ACCOUNT, 50, only=rare),
    }


async def reads(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """A ledger of each size, read by the account that has a tenth of it."""
    samples: list[Sample] = []
    for size in sizes:
        url = await stage.create_database(f"reads_{size}")
        await migrate(url, up_to=BEFORE_SUMS)
        database = Database(url, size=1, timeout_s=STATEMENT_S)
        try:
            await _fill(database, size, report)
            start = time.perf_counter()
            await migrate(url)
            migrated_s = time.perf_counter() - start
            report(f"reads: {size:,} events migrated in {migrated_s:.0f} s")
            await fold_all(database, report)
            await database.execute("VACUUM ANALYZE")
            samples.append({"size": size, "migrate_s": migrated_s, **await _read(stage, database, report)})
            await _check(database)
        finally:
            await database.close()
    return samples


async def _fill(database: Database, size: int, report: Report) -> None:
    first = datetime.now(UTC) - timedelta(days=DAYS)
    await database.execute("SELECT create_usage_months($1::date, 6)", first.date())
    await database.execute(
        "INSERT INTO accounts (id, name, plan) SELECT 'acc_01M8' || lpad(n::text, 22, '0'), 'Bench', 'free' "
        "FROM generate_series(0, 999) AS n"
    )
    for at in range(1, size + 1, STEP_ROWS):
        report(f"reads: {at:,} of {size:,} events")
        until = min(size, at + STEP_ROWS - 1)
        await database.execute(FILL, at, until, first, size, timedelta(days=DAYS))


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


async def _check(database: Database) -> None:
    """Raises `Unsound` where sums are not those of the events."""
    (span,) = await Reports(database).sums.spans(ACCOUNT, (BEGINNING, END))
    counted = await database.row(
        "SELECT count(*) AS requests, sum(charged_nano)::bigint AS charged FROM usage_events WHERE account_id = $1",
        ACCOUNT,
    )
    used = total(span)
    if counted is None or (used.requests, used.charged_nano) != tuple(counted):
        raise Unsound(f"sums are {used}, events {counted}")
