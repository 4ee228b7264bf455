"""A whole gateway that can be hurt: embedded servers, three workers under a supervisor process, customers, a provider.

This file owns what runs and how it is found again by its process ids. Everything ends with this process.
"""

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil

from billing.database.migrate import migrate
from billing.money import parse_usd
from billing.quotas import Quota, parse_quotas
from gateway.config.settings import load_settings
from gateway.embedded.folders import POINTER_NAME
from gateway.embedded.process import read_pid
from gateway.embedded.servers import EmbeddedServers, Endpoints, postgres_answers
from gateway.runtime.runtime import Runtime
from gateway.runtime.wiring import open_runtime
from tests.chaos.places import (
    ADMIN_KEY,
    ROOT,
    WIDE,
    allow_connections,
    is_free,
    living,
    make_environment,
    make_folder,
)
from tests.chaos.upstream import Upstream
from tests.chaos.waiting import BOUND_S, until
from tests.support.ports import free_port
from tests.support.redis_cluster import RedisCluster, formed_cluster

if TYPE_CHECKING:
    from tests.chaos.clients import Load

# Of a gateway: a Redis that is slow because the machine is busy has nobody refused.
SILENT_AFTER_10_S = {"redis_timeout_ms": 10_000, "settle_timeout_ms": 10_000}
# A grant of unknown fate is asked for again until it is answered, however much breaks meanwhile.
GRANT_BOUND_S = 600.0
# For reading all that a round has written.
READ_ALL_BOUND_S = 600.0


@dataclass
class Customer:
    """An account with one key. `granted_nano` is what it was given, `quotas` what counts for its account and key."""

    account_id: str
    key_id: str
    key: str
    credit_limit_nano: int
    granted_nano: int
    account_quotas: tuple[Quota, ...]
    key_quotas: tuple[Quota, ...]


@dataclass(frozen=True, slots=True)
class Excuse:
    """What may be missing afterwards, by `time.monotonic`: debits of answers that ended between `from_s` and `until_s`,
    and of what broke off then. `fault_s` is when it happened. `restored`: it was a backup that was, and whatever ran
    meanwhile is excused."""

    from_s: float
    until_s: float
    fault_s: float
    restored: bool = False


@dataclass
class Stack:
    """What runs. `workers` is the number of worker processes; `cluster` is their Redis, where it is not the embedded
    one. `load` is what clients do now; `others` are customers that faults have made, by name; `excuses` and `notes` are
    what faults leave for the verdict and for the reader."""

    folder: Path
    servers: EmbeddedServers
    upstream: Upstream
    session: aiohttp.ClientSession
    workers: int
    endpoints: Endpoints
    address: str
    environment: dict[str, str]
    cluster: RedisCluster | None = None
    customers: list[Customer] = field(default_factory=list)
    supervisor: Process | None = None
    load: "Load | None" = None
    others: dict[str, Customer] = field(default_factory=dict)
    excuses: list[Excuse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    async def start_gateway(self) -> None:
        """Start the supervisor and wait for its first worker."""
        await until(lambda: is_free(self.address), f"{self.address} is free")
        with self.log.open("ab") as log:
            self.supervisor = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.chaos.gateway",
                str(os.getpid()),
                self.address,
                str(self.workers),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env=self.environment,
                cwd=ROOT,
                start_new_session=True,
            )
        async with asyncio.timeout(BOUND_S):
            line = await self.supervisor.stdout.readline()
        assert line.startswith(b"ready"), f"the gateway did not start: {self.log_tail()}"

    async def stop_gateway(self) -> int:
        """Ask the gateway to end; its exit code."""
        if self.supervisor is None:
            return 0
        if self.supervisor.returncode is None:
            self.supervisor.terminate()
        async with asyncio.timeout(BOUND_S):
            return await self.supervisor.wait()

    def worker_pids(self) -> list[int]:
        """Workers that run, oldest first."""
        if self.supervisor is None or self.supervisor.returncode is not None:
            return []
        try:
            found = psutil.Process(self.supervisor.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in sorted(found, key=lambda child: child.create_time())]

    def gateway_pids(self) -> list[int]:
        """The supervisor and its workers."""
        return [self.supervisor.pid, *self.worker_pids()]

    def redis_pid(self) -> int | None:
        """The Redis that runs now."""
        return living(read_pid(self.folder / "data" / "redis.pid"))

    def postgres_pid(self) -> int | None:
        """The Postgres that runs now (its first process)."""
        return living(read_pid(self.postgres_home() / "postgres" / "postmaster.pid"))

    def postgres_home(self) -> Path:
        """The folder that has Postgres's folders."""
        pointer = self.folder / "data" / POINTER_NAME
        return Path(pointer.read_text().strip()) if pointer.exists() else self.folder / "data"

    def log_tail(self, lines: int = 40) -> str:
        """The end of the gateway's log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:]) if self.log.exists() else ""

    def postgres_answers(self) -> bool:
        """Whether Postgres takes sessions."""
        published = json.loads((self.folder / "data" / "endpoints.json").read_bytes())
        return self.postgres_pid() is not None and postgres_answers(Path(published["postgres_socket"]))

    async def admin(self, method: str, path: str, body: Any = None, bound_s: float = BOUND_S) -> Any:
        """One call of the admin API, repeated until it is answered: grants and the like are idempotent."""
        answer: dict[str, Any] = {}

        async def called() -> bool:
            try:
                async with self.session.request(
                    method, f"{self.url}/api/admin{path}", json=body, headers={"X-Admin-Key": ADMIN_KEY}
                ) as response:
                    if response.status >= 500:
                        return False
                    assert response.status < 300, await response.text()
                    answer.update(await response.json())
                    return True
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False

        await until(called, f"{method} {path} is answered", bound_s)
        return answer

    async def customer(
        self,
        balance_usd: str,
        *,
        credit_limit_usd: str = "0",
        plan: str = "wide",
        account_quotas: list[dict[str, Any]] | None = None,
        key_quotas: list[dict[str, Any]] | None = None,
        max_parallel_requests: int | None = None,
    ) -> Customer:
        """A new account with a balance, and a key."""
        asked = {
            "name": "chaos",
            "plan": plan,
            "credit_limit_usd": credit_limit_usd,
            "quotas": account_quotas or [],
        }
        account_id = (await self.admin("POST", "/accounts", asked))["id"]
        key: dict[str, Any] = {"account_id": account_id, "name": "chaos", "quotas": key_quotas or []}
        if max_parallel_requests is not None:
            key["max_parallel_requests"] = max_parallel_requests
        made = await self.admin("POST", "/keys", key)
        plan_quotas = WIDE if plan == "wide" else []
        customer = Customer(
            account_id,
            made["id"],
            made["key"],
            parse_usd(credit_limit_usd),
            0,
            parse_quotas(plan_quotas) + parse_quotas(account_quotas or []),
            parse_quotas(key_quotas or []),
        )
        self.customers.append(customer)
        await self.grant(customer, balance_usd, "first")
        return customer

    async def grant(self, customer: Customer, amount_usd: str, name: str) -> None:
        """Give an account credit, once however often the call has to be repeated."""
        customer.granted_nano += parse_usd(amount_usd)
        body = {"amount_usd": amount_usd, "idempotency_key": name}
        await self.admin("POST", f"/accounts/{customer.account_id}/grants", body, GRANT_BOUND_S)

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[Runtime]:
        """The services on the same stores, in this process; nothing runs in the background. What is compared is all
        that a round has written: on a busy machine reading it takes longer than a request may wait."""
        settings = load_settings(self.environment, mode="command")
        settings = replace(settings, defaults=settings.defaults.having(postgres_timeout_s=READ_ALL_BOUND_S))
        async with open_runtime(
            settings,
            database_url=self.endpoints.database_url,
            redis_url=self.endpoints.redis_url,
            embedded=self.cluster is None,
        ) as runtime:
            yield runtime


@asynccontextmanager
async def running(
    *,
    workers: int = 3,
    defaults: Mapping[str, Any] | None = None,
    postgres_folder: Path | None = None,
    postgres_options: Mapping[str, str] | None = None,
    keep: bool = False,
    on_cluster: bool = False,
    around_servers: Callable[[Path], AbstractContextManager[None]] | None = None,
    spools: bool = False,
    spare: bool = False,
    upstream: Upstream | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Everything, in a new folder; `postgres_folder` is where Postgres's data shall be instead. With `on_cluster` the
    gateway's Redis is a cluster of its own. `around_servers` gets the folder, and lasts as long as the servers run.
    `spools`: workers keep a second copy of debits on disk. `spare`: the provider has two keys, its model a fallback.
    `upstream`: another provider; `variables`: more of the gateway's environment. Main thread only."""
    allow_connections()
    folder = make_folder(postgres_folder)
    data = folder / "data"
    upstream = upstream or Upstream(counts_answers=spare)
    timeout = aiohttp.ClientTimeout(total=BOUND_S)
    try:
        with (
            formed_cluster() if on_cluster else nullcontext() as cluster,
            around_servers(folder) if around_servers is not None else nullcontext(),
        ):
            async with (
                EmbeddedServers(data, postgres_options=postgres_options) as servers,
                upstream.served(),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
            ):
                await migrate(servers.endpoints.database_url)
                endpoints = servers.endpoints if cluster is None else replace(servers.endpoints, redis_url=cluster.url)
                address = f"127.0.0.1:{free_port()}"
                environment = make_environment(
                    folder, endpoints, address, upstream.url, defaults or {}, embedded=not on_cluster, spare=spare
                )
                environment["METERGATE_SPOOL_DIR"] = str(folder / "spool") if spools else "off"
                environment.update(variables or {})
                stack = Stack(folder, servers, upstream, session, workers, endpoints, address, environment, cluster)
                try:
                    await stack.start_gateway()
                    yield stack
                finally:
                    if stack.supervisor is not None and stack.supervisor.returncode is None:
                        stack.supervisor.kill()
                        await stack.supervisor.wait()
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
