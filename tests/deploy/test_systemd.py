"""`deploy/systemd`: the unit as systemd judges it, and as it runs it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import psutil
import pytest
import yaml

from gateway.config.defaults import Defaults
from gateway.config.source import SHIPPED_FOLDER
from gateway.process.supervisor import KILL_MARGIN_S
from tests.support.answering import until
from tests.support.commands import CHECKOUT
from tests.support.forwarding import by_tcp
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.system_manager import Manager, manager

FOLDER = CHECKOUT / "deploy" / "systemd"
UNIT = FOLDER / "metergate.service"
UNITS = sorted((*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")))
ADMIN_KEY = "the-admin-key-of-a-unit-that-is-tested"
# systemd's own figure for what a service that has gone wrong can reach: 10 is everything.
MOST_EXPOSED = 15  # tenths
SETTINGS = dict(
    line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze", "systemd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_units(unit):
    judged = analyze("verify", str(unit))
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", [each for each in UNITS if each.suffix == ".service"], ids=lambda path: path.name)
def test_a_service_that_has_gone_wrong_reaches_next_to_nothing(unit):
    judged = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit))
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr


def test_it_is_waited_for_as_long_as_a_stop_may_take():
    defaults = Defaults()
    takes_s = defaults.process.shutdown_grace_s + defaults.stores.postgres_timeout_s + KILL_MARGIN_S
    assert int(SETTINGS["TimeoutStopSec"]) > takes_s


@dataclass(frozen=True)
class Service:
    """The unit as it runs, and what it is asked."""

    manager: Manager
    url: str
    session: aiohttp.ClientSession

    async def admin(self, path: str, body: Any) -> Any:
        headers = {"X-Admin-Key": ADMIN_KEY}
        async with self.session.post(f"{self.url}/api/admin{path}", json=body, headers=headers) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def serves(self) -> bool:
        try:
            async with self.session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def processes(self) -> list[psutil.Process]:
        """Those of the gateway."""
        found = psutil.Process(self.manager.pid).children(recursive=True)
        return [each for each in found if "gateway" in " ".join(each.cmdline())]


@pytest.fixture
async def service(empty_database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """The unit on this machine's stores, with secrets in the file that it names."""
    postgres = urlsplit(empty_database_url)
    socket = Path(parse_qs(postgres.query)["host"][0]) / ".s.PGSQL.5432"
    port, metrics_port = free_ports(2)
    async with AsyncExitStack() as stack:
        at_postgres = await stack.enter_async_context(by_tcp(socket))
        at_redis = await stack.enter_async_context(by_tcp(Path(unquote(urlsplit(redis_url).path))))
        secrets = (FOLDER / "secrets.env").read_text()
        secrets += f"ADMIN_API_KEY={ADMIN_KEY}\nREDIS_URL=redis://127.0.0.1:{at_redis}/0\n"
        secrets += f"DATABASE_URL='postgresql://metergate@127.0.0.1:{at_postgres}{postgres.path}'\n"
        settings = (FOLDER / "metergate.env").read_text() + f"LISTEN_ADDR=127.0.0.1:{port}\nWORKERS=1\n"
        settings += f"METRICS_ADDR=127.0.0.1:{metrics_port}\n"
        files = {"/etc/metergate/secrets.env": secrets, "/etc/metergate/metergate.env": settings}
        files |= {f"/etc/metergate/config/{name}": text for name, text in configuration().items()}
        session = await stack.enter_async_context(aiohttp.ClientSession())
        running = await stack.enter_async_context(manager(tmp_path, files, UNIT))
        made = Service(running, f"http://127.0.0.1:{port}", session)
        await until(made.serves)
        yield made


def configuration() -> dict[str, str]:
    """The shipped files, whose local provider takes its time with streams."""
    files = {path.name: path.read_text() for path in SHIPPED_FOLDER.glob("*.yaml")}
    main = yaml.safe_load(files["metergate.yaml"])
    main["providers"]["local"] = {"kind": "local", "chunk_delay_ms": 100}
    return {**files, "metergate.yaml": yaml.safe_dump(main)}


async def somebody_signs_in(url: str, session: aiohttp.ClientSession) -> None:
    """Pages are shown, and a password is hashed: a process of its own does, and threads that stand behind requests."""
    headers = {"X-Admin-Key": ADMIN_KEY}
    async with session.post(f"{url}/api/admin/login-links", headers=headers) as answer:
        link = (await answer.json())["url"]
    async with session.get(f"{url}/console/{link.partition('/console/')[2]}") as page:
        assert page.status == 200, await page.text()
    given = {"email": "ada@example.com", "password": "swordfish-of-a-test"}
    async with session.post(f"{url}/api/auth/login", json=given) as answer:
        assert answer.status == 401, await answer.text()


@pytest.mark.slow
async def test_systemd_runs_it_keeps_its_secrets_starts_it_again_and_lets_answers_end(service):
    account = await service.admin("/accounts", {"name": "Ada", "plan": "enterprise"})
    await service.admin(f"/accounts/{account['id']}/grants", {"amount_usd": "5.00", "idempotency_key": "a"})
    key = (await service.admin("/keys", {"account_id": account["id"], "name": "laptop"}))["key"]

    supervisor, *workers = sorted(service.processes(), key=lambda each: each.pid)
    assert workers
    for process in (supervisor, *workers):
        assert ADMIN_KEY not in " ".join(process.cmdline())
        assert process.uids().effective > 60_000
    shown = await service.manager.show(UNIT.name, "Environment", "NRestarts", "Result")
    assert ADMIN_KEY not in str(shown)

    await somebody_signs_in(service.url, service.session)
    assert {each.pid for each in service.processes()} >= {supervisor.pid, *(each.pid for each in workers)}

    supervisor.send_signal(SIGKILL)
    supervisor.wait(60)

    async def started_again():
        restarts = await service.manager.show(UNIT.name, "NRestarts", "ActiveState")
        return restarts == {"NRestarts": "1", "ActiveState": "active"} and await service.serves()

    await until(started_again)

    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Count to 20."}]}
    headers = {"Authorization": f"Bearer {key}"}
    before = {each.pid for each in service.processes()}
    async with service.session.post(f"{service.url}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readline()
        assert await service.manager.systemctl("reload", UNIT.name) == ""
        await until(lambda: bool({each.pid for each in service.processes()} - before))
        assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
    assert (await service.manager.show(UNIT.name, "NRestarts")) == {"NRestarts": "1"}
    async with service.session.post(f"{service.url}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readline()
        stopping = asyncio.ensure_future(service.manager.systemctl("stop", UNIT.name))
        rest = await answer.content.read()
        assert not stopping.done()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert await stopping == ""
    ended = await service.manager.show(UNIT.name, "ActiveState", "Result", "ExecMainStatus")
    assert ended == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    assert not service.processes()
