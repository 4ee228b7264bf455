"""What the console's pages take in a large installation, and what a look at them costs the proxy.

    python -m benchmarks console [--folder FOLDER] [--events N] [--pages TEXT]

Every page is fetched from a real worker, one after the other, `LOOKS` times: those of customers as the owner of the
first account of `crowd`, some as that of the second one too, those of operators by an operator's link. Then the proxy
is measured with and without somebody looking, in turns. With `--folder` the ledger is kept there, and the next run
starts with it: to write it takes by far the longest.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import aiohttp
import asyncpg
from argon2 import PasswordHasher

from benchmarks.answers import read_all
from benchmarks.crowd import ACCOUNTS, EMAIL, KEY, LARGE, PERSON, SMALL_KEY, STATEMENT_S, check, fill, fold_all, ids
from benchmarks.figures import Spread
from benchmarks.installation import Installation, write_config
from benchmarks.looks import Looked, lines, slowest
from benchmarks.modes import MODES
from benchmarks.process import READY_S, Process
from benchmarks.seed import Size, seed
from benchmarks.stage import Stage
from benchmarks.subjects import METERGATE, READS, Report, Results, Sample, Subject, Unsound
from benchmarks.tables import table
from benchmarks.turns import Turn
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.web.application import ROUTES
from billing.web.pages import Who

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENTS: Final = 10_000_000
FEW_EVENTS: Final = 100_000
# What a run of every figure looks at.
FEW_ACCOUNTS: Final = 1_000
PAGE_BAR_MS: Final = 100.0
ROUNDS: Final = 4
MEASURE_S: Final = 4.0
RATE: Final = 200
# Two people who open a page a second each, which is more than somebody who reads does.
LOOK_EVERY_S: Final = 0.5
WINDOWS: Final = 6
ADMIN_KEY: Final = "mg_admin_of_the_benchmark_of_pages"
PASSWORD: Final = "quiet tulip anvil harbour"  # noqa: S105 - of a benchmark
# What pages are about that this installation has none of.
NOT_LOOKED_AT: Final = ("secret", "provider", "token", "endpoint_id")
# What operators look for in the log of requests: what is common, what is rare, and what there is none of.
LOG_FILTERS: Final = (
    "limit=100",
    f"key_id={KEY}",
    f"key_id={SMALL_KEY}",
    "model=model-7",
    "model=model-9",
    "provider=provider-1",
    "status=499",
    "status=500",
    "tag=team%3Dteam3",
    "tag=team%3Dnone",
    "session=session-20000",
    "session=none",
    "end_user=end-user-7",
    "end_user=nobody",
    "min_latency_ms=3000",
    "min_latency_ms=60000",
    "order=slowest",
    "order=slowest&model=model-9",
    "min_latency_ms=600000",
    "last=1h",
    "last=30d",
    "last=1h&format=csv&model=model-7",
    "last=30d&provider=provider-1&min_latency_ms=3000&tag=team%3Dteam3",
)
# Pages with other parameters, by who looks.
MORE: Final = {
    "large": (
        "/usage?period=30d&by=key",
        "/usage?period=30d&by=endpoint",
        "/usage?period=30d&by=tag&tag=project",
        "/usage?period=7d",
        "/usage?period=365d",
        "/requests?model=model-9",
        "/credit/transactions?limit=1000",
    ),
    "wide": ("/", "/usage?period=30d&by=key", "/usage?period=last_month&by=key", "/keys", "/requests"),
    "operator": (
        *(f"/operator/margin?by={by}" for by in ("account", "model", "provider", "day")),
        "/operator/accounts?q=company+777",
        *(f"/operator/requests?{only}" for only in LOG_FILTERS),
        *(f"/operator/requests?account_id={LARGE}&{only}" for only in LOG_FILTERS),
        "/operator/keys?limit=1000",
        f"/operator/keys?account_id={LARGE}",
    ),
}


@dataclass(slots=True)
class Found:
    """Pages, reads of the API, and samples of the proxy with nobody looking and with somebody."""

    pages: list[Looked]
    reads: list[Looked] = field(default_factory=list)
    alone: list[Sample] = field(default_factory=list)
    beside: list[Sample] = field(default_factory=list)

    def text(self) -> str:
        """Tables in Markdown."""
        names = ("per_s", "p50_ms", "p99_ms", "cpu_us")
        proxy = [
            (name, *(_spread([sample[name] for sample in samples]) for samples in (self.alone, self.beside)))
            for name in names
            if self.alone
        ]
        looked = [*lines("page", self.pages), "", *lines("read", self.reads), ""]
        return "\n".join([*looked, *table(("proxy", "nobody looks", "somebody looks"), proxy)])


def _spread(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.median:,.2f} ({spread.least:,.2f} to {spread.most:,.2f})"


async def crowded(stage: Stage, events: int, report: Report, accounts: int = ACCOUNTS) -> Installation:
    """An installation with the ledger of `crowd`, which is written where the folder has none, and with customers of the
    proxy beside."""
    name = f"crowd_{events}"
    server = await asyncpg.connect(stage.endpoints.database_url)
    try:
        if not await server.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
            await server.execute(f"DROP DATABASE IF EXISTS {name}_half")
            half = await stage.create_database(f"{name}_half")
            await migrate(half)
            await fill(half, events, report, accounts)
            await server.execute(f"ALTER DATABASE {name}_half RENAME TO {name}")
    finally:
        await server.close()
    url = stage.database(name)
    await migrate(url)
    database = Database(url, size=1, timeout_s=STATEMENT_S)
    try:
        await fold_all(database, report)
        await check(database)
    finally:
        await database.close()
    connection = await asyncpg.connect(url)
    try:
        hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
        await connection.execute(
            "UPDATE users SET password_hash = $1 WHERE id = ANY ($2)", hashed, [PERSON[0], PERSON[1]]
        )
    finally:
        await connection.close()
    secrets = await seed(url, Size(100, 200), WINDOWS)
    config = stage.folder / "crowded"
    write_config(config, stage.upstream_url, {"redis_partitions": 1})
    more = {"ADMIN_API_KEY": ADMIN_KEY, "PAYMENT_PROVIDER": "local"}
    return Installation(url, f"{stage.endpoints.redis_url}?db=0", config, {WINDOWS: secrets}, "", more=more)


class Browser:
    """Somebody who looks at pages of a gateway."""

    def __init__(self, who: str, process: Process) -> None:
        self.who = who
        self._url = f"http://{process.address[0]}:{process.address[1]}"
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def sign_in(self, number: int) -> None:
        """Be the owner of an account. Raises `Unsound`."""
        await self._enter("/console/sign-in", {"email": EMAIL.format(number), "password": PASSWORD})

    async def be_operator(self) -> None:
        """Be an operator, by a link. Raises `Unsound`."""
        headers = {"X-Admin-Key": ADMIN_KEY}
        async with self._session.post(f"{self._url}/api/admin/login-links", headers=headers) as answer:
            link = await answer.json()
        if "url" not in link:
            raise Unsound(f"no link for an operator: {link}")
        await self._enter("/console/enter/" + link["url"].rpartition("/")[2], {})

    async def _enter(self, path: str, form: dict[str, str]) -> None:
        own = {"Sec-Fetch-Site": "same-origin"}
        post = self._session.post(f"{self._url}{path}", data=form, headers=own, allow_redirects=False)
        async with post as answer:
            if answer.status != 303:
                raise Unsound(f"{self.who} can't sign in: {answer.status} {(await answer.text())[-500:]}")

    async def look(self, path: str) -> tuple[float, int, int]:
        """Return milliseconds, status and bytes of a page."""
        start = time.perf_counter()
        async with self._session.get(f"{self._url}/console{path}", allow_redirects=False) as answer:
            body = await answer.read()
        return (time.perf_counter() - start) * 1000, answer.status, len(body)

    async def apart(self, path: str) -> bool:
        """Return whether the process of pages makes a page: it ends each connection."""
        async with self._session.get(f"{self._url}/console{path}") as answer:
            return answer.headers.get("Connection") == "close"

    async def close(self) -> None:
        """Leave."""
        await self._session.close()


@asynccontextmanager
async def browsers(process: Process) -> "AsyncIterator[dict[str, Browser]]":
    """The owners of the first two accounts, an operator, and somebody who has not signed in."""
    found = {who: Browser(who, process) for who in ("large", "wide", "operator", "nobody")}
    try:
        await found["large"].sign_in(0)
        await found["wide"].sign_in(1)
        await found["operator"].be_operator()
        yield found
    finally:
        for each in found.values():
            await each.close()


def pages(given: dict[str, str]) -> list[Looked]:
    """Every page that can be looked at, and those of `MORE`."""
    found = []
    for page in ROUTES:
        if page.method == "GET" and not any(f"{{{name}}}" in page.path for name in NOT_LOOKED_AT):
            who = {Who.operator: "operator", Who.anyone: "nobody"}.get(page.who, "large")
            with suppress(KeyError):  # what the installation has none of
                found.append(Looked(who, page.path.format_map(given)))
    return [*found, *(Looked(who, path) for who, paths in MORE.items() for path in paths)]


async def console(stage: Stage, events: int, report: Report, only: str = "") -> Found:
    """Look at every page, then at the proxy; with `only` at no more than the pages whose address has it. Raises
    `Unsound` where a page is not shown."""
    installation = await crowded(stage, events, report)
    worker = await stage.serve(installation, 1)
    given = await ids(installation.database_url)
    found = Found([each for each in pages(given) if only in each.path])
    async with browsers(worker) as people:
        await _looks(stage, worker, people, found.pages, report)
        if only:
            return found
        found.reads = await read_all(stage, worker, given, PASSWORD, report)
        await _beside(stage, installation, worker, people, found, report)
    return found


async def small(stage: Stage, report: Report) -> dict[str, list[Sample]]:
    """What takes longest on a small ledger, of pages and of reads: samples by `looks.slowest`. Raises `Unsound`."""
    installation = await crowded(stage, FEW_EVENTS, report, FEW_ACCOUNTS)
    worker = await stage.serve(installation, 1)
    given = await ids(installation.database_url)
    shown = pages(given)
    async with browsers(worker) as people:
        await _looks(stage, worker, people, shown, report)
    read = await read_all(stage, worker, given, PASSWORD, report)
    await asyncio.to_thread(worker.stop)
    return {METERGATE: [slowest(shown, report)], READS: [slowest(read, report)]}


async def _looks(
    stage: Stage, worker: Process, people: dict[str, Browser], shown: Sequence[Looked], report: Report
) -> None:
    """Look at pages, one after the other, as soon as the process of pages makes them: the first look starts it. Raises
    `Unsound` where one is not shown, or that process does not come."""
    until_s = time.monotonic() + READY_S
    while not await people["nobody"].apart("/sign-in"):
        if time.monotonic() > until_s:
            raise Unsound(f"no process of pages serves\n{worker.last_words()}")
        await asyncio.sleep(LOOK_EVERY_S)
    alone, worker.workers = worker.workers, worker.children()
    for each in shown:
        await each.measure(stage, worker, people[each.who].look, report)
    worker.workers = alone


async def _beside(
    stage: Stage, installation: Installation, worker: Process, people: dict[str, Browser], found: Found, report: Report
) -> None:
    """Measure the proxy with and without somebody looking, in turns."""
    turn = Turn(stage, MODES["quick"], Results(MODES["quick"]))
    subject = Subject(METERGATE, worker, installation.secrets[WINDOWS], installation)
    await turn.warm(subject)
    shown = itertools.cycle([each for each in found.pages if each.who != "nobody"])

    async def look_on() -> None:
        while True:
            page = next(shown)
            await asyncio.gather(people[page.who].look(page.path), asyncio.sleep(LOOK_EVERY_S))

    pace = turn.pacer(RATE, MEASURE_S)
    for number in range(ROUNDS):
        for looks in (False, True) if number % 2 else (True, False):
            looker = asyncio.ensure_future(look_on()) if looks else None
            most = await turn.saturate_with(subject, MODES["quick"].connections, MEASURE_S)
            at_rate = await pace(subject)
            if looker is not None:
                looker.cancel()
                await asyncio.gather(looker, return_exceptions=True)
            sample = {**at_rate, "per_s": most["per_s"], "cpu_us": most["cpu_us"]}
            (found.beside if looks else found.alone).append(sample)
            who = "somebody" if looks else "nobody"
            report(f"console: {who} looks: {sample['per_s']:.0f}/s, {sample['p99_ms']:.1f} ms")
