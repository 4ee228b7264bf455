"""What collection takes: so many exporters with so many series each, minute after minute, into a ledger of its own.

    python -m benchmarks collect                      1,000 exporters with 1,000 series each
    python -m benchmarks.collect --fd N --series N    the exporters: one process, which costs next to nothing

A sample has two counters, so two series. All exporters count the same users, as nodes of one network do, so that an
account has a series of each direction on each node. The first round makes nodes, subjects, accounts and series; later
ones are what happens each minute. At the end the ledger must hold what the counters have grown by.
"""

import argparse
import os
import resource
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import unquote

import msgspec
from aiohttp import web

from benchmarks.machine import OTHER_CORE, TARGET_CORE, cpu_s, tree_cpu_s
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample, Unsound
from billing.accounts.grants import Grants
from billing.change_notifier import LiveBalance
from billing.collect.collector import Collector, CollectRules, Parts
from billing.collect.debits import TrafficDebits, rate_of
from billing.collect.facts import Facts
from billing.collect.snapshots import WINDOW, Exporters, Source
from billing.collect.subjects import SubjectRules, Subjects
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.pages import new_id
from billing.pricing import PriceTable

MINUTES: Final = 3
BEGAN: Final = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
# Bytes that each counter grows by in a minute.
GROWN: Final = 1_000
# A hundredth of a nano-USD.
PER_BYTE: Final = 10**7
GATE: Final = 4
MIB: Final = 1024 * 1024


class Silent:
    """ChangeNotifier that nobody is told of: Redis's part is not measured."""

    async def account_changed(self, account_id: str) -> None: ...

    async def key_changed(self, key_id: str, account_id: str) -> None: ...

    async def balance_changed(self, account_id: str) -> None: ...

    async def live_balance(self, account_id: str) -> LiveBalance | None:
        return None


async def _tell(accounts: object) -> None: ...


@dataclass(slots=True)
class Clock:
    """The time of the run: a minute passes from one round to the next."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


def _collector(database: Database, url: str, sources: int, clock: Clock) -> Collector:
    grants = Grants(database, Silent(), new_id)
    rate = partial(rate_of, PriceTable([]), PER_BYTE)
    parts = Parts(
        Exporters(connections=GATE, answer_bytes=16 * MIB, limit=100),
        Facts(database, "bench", "new"),
        Subjects(database, grants, SubjectRules(), new_id),
        TrafficDebits(database, grants, rate, _tell, new_id),
    )
    rules = CollectRules("bench", pages=100, overlap=timedelta(0), at_once=GATE)
    named = [Source(f"s{number}", f"{url}/s{number}", None, "eu", f"s{number}", "prod") for number in range(sources)]
    return Collector(database, named, parts, rules, clock)


async def collect(stage: Stage, sources: int, series: int, note: Report) -> list[Sample]:
    """Measure rounds, the first one by itself. Raises `Unsound` where the ledger has not what has grown."""
    for pid in (os.getpid(), stage.postgres_pid):
        os.sched_setaffinity(pid, {OTHER_CORE, TARGET_CORE})
    exporters = stage.start("exporters", "benchmarks.collect", "--series", str(series), core=OTHER_CORE)
    url = await stage.create_database("collected")
    await migrate(url)
    database = Database(url, size=2, timeout_s=120)
    clock, samples = Clock(BEGAN), []
    collector = _collector(database, "http://{}:{}".format(*exporters.address), sources, clock)
    try:
        for minute in range(MINUTES + 1):
            clock.now = BEGAN + timedelta(minutes=minute)
            samples.append(await _round(stage, collector, minute))
            note(", ".join(f"{name} {value:,.3g}" for name, value in samples[-1].items()))
            if minute == 0:
                await database.execute("ANALYZE")
        await _check(database, sources * series * MINUTES * GROWN)
    finally:
        await collector.close()
        await database.close()
    return samples


async def _round(stage: Stage, collector: Collector, minute: int) -> Sample:
    own_s, postgres_s, started = cpu_s(os.getpid()), tree_cpu_s(stage.postgres_pid), time.perf_counter()
    run = await collector.run()
    took_s = time.perf_counter() - started
    if run.status != "ok":
        raise Unsound(f"round {minute}: {run.status}: {run.error}")
    return {
        "series": 2 * run.processed_samples,
        "took_s": took_s,
        "own_cpu_s": cpu_s(os.getpid()) - own_s,
        "postgres_cpu_s": tree_cpu_s(stage.postgres_pid) - postgres_s,
        "debits": run.debits,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def _check(database: Database, grown: int) -> None:
    facts = int(await database.value("SELECT sum(up_bytes + down_bytes) FROM collected_hours"))
    units = int(await database.value("SELECT sum((counts->>'unit_thousandths')::numeric) / 1000 FROM usage_events"))
    charged = int(await database.value("SELECT sum(charged_nano) FROM usage_events"))
    owed = int(await database.value("SELECT sum(charged_nano) FROM collected_accounts"))
    if (facts, units, charged) != (grown, grown, owed):
        raise Unsound(f"counters grew by {grown}, facts say {facts}, debits {units}; charged {charged} of {owed}")


@dataclass(frozen=True, slots=True)
class _Exporters:
    """All exporters: each answers with one snapshot, of the minute that the window ends with."""

    series: int

    async def answer(self, request: web.Request) -> web.Response:
        until = datetime.fromisoformat(unquote(request.query["until"]))
        minute, node = int((until - BEGAN).total_seconds()) // 60, request.match_info["node"]
        total = (minute + 1) * GROWN
        samples = [
            {
                "uuid": f"00000000-0000-4000-8000-{number:012d}",
                "email": f"user{number}@example.com",
                "inbound_tag": "xhttp-premium",
                "uplink_bytes_total": total,
                "downlink_bytes_total": total,
            }
            for number in range(self.series // 2)
        ]
        snapshot = {"collected_at": until.isoformat(), "node_id": node, "env": "prod", "samples": samples}
        page = {"node_id": node, "env": "prod", "snapshots": [snapshot], "has_more": False}
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")


def main() -> None:
    """Be the exporters."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--series", type=int, required=True)
    arguments = parser.parse_args()
    app = web.Application()
    app.router.add_get(f"/{{node}}{WINDOW}", _Exporters(arguments.series).answer)
    web.run_app(app, sock=socket.socket(fileno=arguments.fd), print=lambda *_: None)


if __name__ == "__main__":
    main()
