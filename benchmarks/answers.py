"""What reads of an account take over the API in a large installation: the reads of a customer's program.

They are those of the first two accounts of `crowd`, as their owners: one with a tenth of all events, in New York, and
one with 1,000 keys. Each is one answer of the API: a page of at most 2,000 groups, where it has groups.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import aiohttp

from benchmarks.crowd import EMAIL
from benchmarks.looks import Look, Looked
from benchmarks.process import Process
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Unsound

ACCOUNT: Final = "/api/account"
DAYS: Final = 31
_SUMMARY: Final = f"{ACCOUNT}/usage/summary"
_BUCKETS: Final = f"{ACCOUNT}/usage/buckets"
_EVENTS: Final = f"{ACCOUNT}/usage/events"
# By who reads; the owner of the first account or of the second.
READS: Final = {
    "large": (
        f"{ACCOUNT}/balance",
        f"{ACCOUNT}/billing/summary",
        f"{ACCOUNT}/transactions?limit=100",
        *(f"{_EVENTS}?limit=100{only}" for only in ("", "&model=model-9", "&tag=team%3Dteam3", "&key_id={key_id}")),
        *(f"/api/billing/usage{only}" for only in ("", "?key_id={key_id}", "?since={since}")),
        *(f"{_SUMMARY}?group_by={names}" for names in ("model", "key", "tag:project", "tag:team,model", "key,model")),
        *(f"{_SUMMARY}?since={{since}}&group_by={names}" for names in ("model", "tag:project,model", "key,model")),
        f"{_BUCKETS}?since={{since}}",
        *(
            f"{_BUCKETS}?since={{since}}&group_by={names}"
            for names in ("model", "key", "tag:project", "tag:team,model", "tag:project,model", "model,endpoint")
        ),
        f"{_BUCKETS}?since={{since}}&group_by=key,model",
        f"{_BUCKETS}?granularity=hour&since={{days4}}&group_by=key",
        f"{_BUCKETS}?granularity=hour&since={{days4}}&group_by=model&tz=Asia/Kolkata",
        f"{_BUCKETS}?granularity=month&group_by=model",
    ),
    "wide": (
        f"{ACCOUNT}/billing/summary",
        f"{_EVENTS}?limit=100",
        f"{_SUMMARY}?since={{since}}&group_by=key",
        f"{_BUCKETS}?since={{since}}&group_by=key",
        f"{_BUCKETS}?since={{since}}&group_by=model",
    ),
}
NUMBERS: Final = {"large": 0, "wide": 1}


@asynccontextmanager
async def _reader(who: str, process: Process, password: str) -> AsyncIterator[Look]:
    """Sign in as the owner of an account, and return what reads as that. Raises `Unsound`."""
    url = f"http://{process.address[0]}:{process.address[1]}"
    async with aiohttp.ClientSession() as session:
        credentials = {"email": EMAIL.format(NUMBERS[who]), "password": password}
        async with session.post(f"{url}/api/auth/login", json=credentials) as answer:
            told = await answer.json()
        if "access_token" not in told:
            raise Unsound(f"{who} can't sign in: {answer.status} {told}")
        headers = {"Authorization": f"Bearer {told['access_token']}"}

        async def look(path: str) -> tuple[float, int, int]:
            start = time.perf_counter()
            async with session.get(f"{url}{path}", headers=headers) as answer:
                body = await answer.read()
            return (time.perf_counter() - start) * 1000, answer.status, len(body)

        yield look


async def read_all(stage: Stage, worker: Process, given: dict[str, str], password: str, report: Report) -> list[Looked]:
    """Read everything, one after the other; `given` are ids by their names. Raises `Unsound`."""
    today = datetime.now(UTC).date()
    filled = {**given, "since": str(today - timedelta(days=DAYS - 1)), "days4": str(today - timedelta(days=3))}
    found = []
    alone, worker.workers = worker.workers, worker.children()  # long answers are made by the process of pages
    for who, paths in READS.items():
        async with _reader(who, worker, password) as look:
            for path in paths:
                found.append(Looked(who, path.format_map(filled)))
                await found[-1].measure(stage, worker, look, report)
    worker.workers = alone
    return found
