"""This release and the one before it, side by side under load: an upgrade, the way back, and kills of workers of both.

    1. the release before migrates and serves, under load
    2. this one migrates; both have a gateway on the same stores, under load
    3. workers of both are killed in turn
    4. upgrade: the first gateway's link leads to this release, `metergate reload`
    5. the way back: the link leads to the one before again, `metergate reload`

No request is refused. Only what ran in a worker as it was killed is cut; nothing is lost or doubled.
"""

import asyncio
import os
import random
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGKILL

import aiohttp

from gateway.embedded.servers import EmbeddedServers
from tests.chaos.clients import Ended, Exchange, Load
from tests.chaos.faults import send_signal, some_worker
from tests.chaos.handover import WITHOUT_FAILURES
from tests.chaos.harness import SILENT_AFTER_10_S, Customer, Stack
from tests.chaos.ledger_check import judge
from tests.chaos.places import allow_connections, make_environment, make_folder
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.upstream import Upstream
from tests.chaos.waiting import BOUND_S, until
from tests.support.ports import free_ports

WORKERS = 2
CLIENTS = 12
# Answers of each gateway between one event and the next.
ANSWERS = 20


@dataclass(frozen=True)
class Releases:
    """Environments of both, and the link that the first gateway is started through."""

    before: Path
    this: Path
    current: Path

    def choose(self, release: Path) -> None:
        """Have the link lead to a release, at once for whoever follows it."""
        beside = self.current.with_name("next")
        beside.symlink_to(release)
        beside.replace(self.current)

    def python(self, release: Path) -> Path:
        return release / "bin" / "python"


async def side_by_side(
    before: Path, this: Path, *, kills: int, seed: int, keep: bool = False
) -> tuple[Counter[str], list[str]]:
    """Run; how requests ended, and whatever must not have been."""
    allow_connections()
    chance = random.Random(seed)  # noqa: S311 - load, not a secret
    folder = make_folder(None)
    releases = Releases(before, this, folder / "current")
    try:
        async with AsyncExitStack() as stack:
            servers = await stack.enter_async_context(EmbeddedServers(folder / "data"))
            upstream = Upstream()
            await stack.enter_async_context(upstream.served())
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=BOUND_S)
            )
            await stack.enter_async_context(session)
            ports = free_ports(2)
            addresses = [f"127.0.0.1:{port}" for port in ports]
            environment = make_environment(
                folder, servers.endpoints, addresses[0], upstream.url, SILENT_AFTER_10_S, embedded=True
            )
            environment |= {"PYTHONPATH": "", "METRICS_ADDR": "127.0.0.1:0", "METERGATE_SPOOL_DIR": "off"}
            first = Stack(folder, servers, upstream, session, WORKERS, servers.endpoints, addresses[0], environment)
            return await _run(first, addresses[1], releases, kills, chance)
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _run(
    first: Stack, second_address: str, releases: Releases, kills: int, chance: random.Random
) -> tuple[Counter[str], list[str]]:
    releases.choose(releases.before)
    await _command(first, releases.python(releases.before), "migrate")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_serving(first, releases.python(releases.current)))
        customers: list[tuple[Customer, float]] = [(await first.customer("1000"), 1) for _ in range(4)]
        load = Load(first, customers, CLIENTS, 1, WITHOUT_FAILURES)
        load.start()
        await _answered(load)
        await _command(first, releases.python(releases.this), "migrate")
        environment = {**first.environment, "LISTEN_ADDR": second_address}
        second = replace(first, address=second_address, environment=environment, supervisor=None)
        await stack.enter_async_context(_serving(second, releases.python(releases.this)))
        beside = Load(second, customers, CLIENTS, 2, WITHOUT_FAILURES)
        beside.start()
        await _answered(load, beside)
        kills_s: list[tuple[float, float]] = []
        for number in range(kills):
            victim = (first, second)[number % 2]
            pid = await some_worker(victim, chance)
            struck_s = time.monotonic()
            send_signal([pid], SIGKILL)
            await until(lambda victim=victim, pid=pid: _replaced(victim, pid), "another worker runs")
            kills_s.append((struck_s, time.monotonic()))
            await _answered(load, beside)
        steps = Counter[str]()
        for release in (releases.this, releases.before):
            began_s, workers = time.monotonic(), set(first.worker_pids())
            releases.choose(release)
            await _command(first, releases.python(releases.current), "reload")
            step = "upgrade" if release == releases.this else "way back"
            steps[f"ms for the {step}"] = int((time.monotonic() - began_s) * 1000)
            assert len(set(first.worker_pids()) - workers) == WORKERS
            await _answered(load, beside)
        await load.stop()
        await beside.stop()
        await wait_until_quiet(first)
        for customer, _ in customers:
            await load.ask(customer, chance)
        left = await wait_until_quiet(first)
        exchanges = [*load.exchanges, *beside.exchanges]
        verdict = await judge(first, exchanges, 0.0)
    found = Counter("answers whole" for each in exchanges if each.ended is Ended.whole) + steps
    cut = [each for each in exchanges if each.ended is not Ended.whole]
    found["cut by a kill"] = sum(_by_kill(each, kills_s) for each in cut)
    wrong = [f"{each.ended.value}: {each.status} {each.note}" for each in cut if not _by_kill(each, kills_s)]
    return found, [*wrong, *verdict.details, *([f"{left} entries left in the journal"] if left else [])]


def _by_kill(exchange: Exchange, kills_s: list[tuple[float, float]]) -> bool:
    """Whether its worker was killed while it ran, or its client did not know yet that it was: until another one ran."""
    ran = ((exchange.sent_s <= until_s and struck_s <= exchange.ended_s) for struck_s, until_s in kills_s)
    return exchange.ended is Ended.cut and any(ran)


async def _answered(*loads: Load) -> None:
    """Wait until each has some more whole answers of requests that were sent from now on."""
    places = [len(load.exchanges) for load in loads]

    def served() -> bool:
        return all(
            sum(each.ended is Ended.whole for each in load.exchanges[place:]) >= ANSWERS
            for load, place in zip(loads, places, strict=True)
        )

    await until(served, lambda: f"answers\n{loads[-1].stack.log_tail()}")


async def _replaced(stack: Stack, pid: int) -> bool:
    workers = stack.worker_pids()
    return pid not in workers and len(workers) >= WORKERS


def _of(stack: Stack) -> Mapping[str, str]:
    """What a gateway's processes get, and commands about it: a folder of its own for each address."""
    folder = stack.folder / stack.address.rpartition(":")[2]
    folder.mkdir(exist_ok=True)
    return {**stack.environment, "METERGATE_DATA_DIR": str(folder)}


async def _command(stack: Stack, python: Path, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        python, "-P", "-m", "gateway", *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=_of(stack)
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


@asynccontextmanager
async def _serving(stack: Stack, python: Path) -> AsyncIterator[Process]:
    """A gateway of a release, from when it serves until it has ended in order."""
    with stack.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(python, "-P", "-m", "gateway", "serve", "--workers", str(WORKERS)),
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            env=_of(stack),
            start_new_session=True,
        )
    stack.supervisor = process

    async def ready() -> bool:
        assert process.returncode is None, f"{stack.address} has ended\n{stack.log_tail()}"
        try:
            async with stack.session.get(f"{stack.url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    try:
        await until(ready, lambda: f"{stack.address} serves\n{stack.log_tail()}")
        yield process
        process.terminate()
        async with asyncio.timeout(BOUND_S):
            assert await process.wait() == 0, stack.log_tail()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, SIGKILL)
            await process.wait()
