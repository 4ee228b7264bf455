"""What services call while gateways are killed: each event is charged once, and holds outlive their gateway."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from ulid import ULID

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.holds.redis.client import RedisClient
from billing.ledger.verify import verify
from tests.billing.support import PLANS, RecordingEffects
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

KEY = "service-key-of-all-the-tests"
HEADERS = {"X-API-Key": KEY, "X-Service-Name": "aura"}
ROUNDS = 2
EVENTS = 40
AMOUNT_NANO = 10_000_000
READY_S = 60.0
# Between two tries of a call that nobody answered.
AGAIN_S = 0.1


class Gateway:
    """`metergate serve` with one worker, a process group of its own."""

    def __init__(self, session: aiohttp.ClientSession, env: dict[str, str]) -> None:
        self._session, self._env = session, env
        self.url, self.process = "", None

    async def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        env = {**self._env, "LISTEN_ADDR": f"127.0.0.1:{port}"}
        command = (sys.executable, "-m", "gateway", "serve", "--workers", "1")
        self.process = await asyncio.create_subprocess_exec(*command, env=env, start_new_session=True)
        async with asyncio.timeout(READY_S):
            while not await self._ready():
                await asyncio.sleep(0.05)

    async def _ready(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with self._session.get(self.url + "/readyz") as answer:
                return answer.status == 200
        return False

    async def kill(self) -> None:
        """kill -9 of the supervisor and its worker."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and body; 0 where no whole answer comes."""
        try:
            at = f"{self.url}/api/service{path}"
            async with self._session.post(at, json=body, headers=HEADERS) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return 0, None


@asynccontextmanager
async def a_gateway(session: aiohttp.ClientSession, env: dict[str, str]) -> AsyncIterator[Gateway]:
    gateway = Gateway(session, env)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.kill()


@pytest.fixture
async def env(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Of gateways on the test's stores."""
    url = f"{redis_url}?db=9"
    link = RedisClient(url)
    await link.command("FLUSHDB")
    yield {
        **os.environ,
        "DATABASE_URL": database_url,
        "REDIS_URL": url,
        "SERVICE_API_KEY": KEY,
        "ADMIN_API_KEY": "admin-key-of-all-the-tests",
        "METERGATE_SPOOL_DIR": str(tmp_path),
    }
    await link.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


async def an_account(database: Database) -> str:
    effects, new_id = RecordingEffects(), lambda: str(ULID())
    account = await Accounts(database, PLANS, effects, new_id).create("Test")
    await Grants(database, effects, new_id).grant(account.id, 100 * 10**9, "first", None)
    return account.id


async def ask_until_answered(gateways: list[Gateway], choice: random.Random, path: str, body: Any) -> int:
    """Send the same again, to any gateway, until there is an answer; how often."""
    for tries in range(1, 10_000):
        status, _ = await choice.choice(gateways).post(path, body)
        if status in (200, 201):
            return tries
        assert status in (0, 503), status
        await asyncio.sleep(AGAIN_S)
    raise AssertionError("nobody answers")


async def test_each_event_is_charged_once_whoever_is_killed(env, database):
    account_id, choice = await an_account(database), random.Random(5)  # noqa: S311 - of gateways
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        a_gateway(session, env) as one,
        a_gateway(session, env) as other,
    ):
        hold = {"account_id": account_id, "event_id": "hold", "amount_usd": "5.00"}
        status, held = await one.post("/holds", hold)
        assert status == 201, held

        async def send(name):
            body = {"account_id": account_id, "event_id": name, "amount_usd": "0.01"}
            path = "/debits"
            if name.startswith("u"):
                path, body = "/usage", {"events": [body]}
            return await ask_until_answered([one, other], choice, path, body)

        names = [f"{kind}{number}" for number in range(EVENTS) for kind in "du"]
        sending = [asyncio.create_task(send(name)) for name in names[: len(names) // 2]]
        for round_number in range(ROUNDS):
            await asyncio.sleep(0.3)
            victim = (one, other)[round_number % 2]
            await victim.kill()
            more = names[len(names) // 2 :][round_number::ROUNDS]
            sending += [asyncio.create_task(send(name)) for name in more]
            await victim.start()
        tries = await asyncio.gather(*sending)
        assert max(tries) > 1  # somebody was killed in between
        settled = {"event_id": "end", "amount_usd": "1.25"}  # of a hold whose gateway was killed
        await ask_until_answered([other], choice, f"/holds/{held['id']}/settle", settled)

        async def balance():
            async with session.get(f"{other.url}/api/service/accounts/{account_id}/balance", headers=HEADERS) as answer:
                return dict(await answer.json())

        spent_nano = len(names) * AMOUNT_NANO + 1_250_000_000
        wanted = ("0.00", f"{(100 * 10**9 - spent_nano) / 10**9:.2f}")
        async with asyncio.timeout(READY_S):
            while ((found := await balance())["held_usd"], found["balance_usd"]) != wanted:
                await asyncio.sleep(0.1)
    rows = await database.rows(
        "SELECT client_request_id, charged_nano FROM usage_events WHERE outcome = 'settled' AND account_id = $1",
        account_id,
    )
    charged = {row["client_request_id"]: row["charged_nano"] for row in rows}
    assert charged == {**dict.fromkeys(names, AMOUNT_NANO), "hold": 1_250_000_000}
    assert len(rows) == len(charged)
    assert (await verify(database)).ok
