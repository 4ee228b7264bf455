"""`metergate reload`: new workers with a new configuration, while connections of the old ones go on."""

import asyncio
import json
import os
import signal
import time

import aiohttp
import psutil
import pytest
import yaml

from billing.cli.output import REFUSED, UNREACHABLE
from billing.database.connection import Database
from gateway.commands.reload import FOLDER, announced
from gateway.config.source import SHIPPED_FOLDER
from tests.support.answering import until
from tests.support.commands import Shell

pytestmark = pytest.mark.slow

ADMIN_KEY = "the-admin-key-of-a-gateway-that-is-reloaded"
GRACE_S = 300  # what runs, however slow the machine is, ends before
STREAM = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Count to 20."}]}
CREATE = {"type": "response.create", "model": "demo", "input": "Hello"}


def configure(folder, **models):
    """The shipped files, with a provider that takes its time, and more models."""
    folder.mkdir(exist_ok=True)
    for path in SHIPPED_FOLDER.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    main = yaml.safe_load((folder / "metergate.yaml").read_text())
    main["providers"]["local"] = {"kind": "local", "chunk_delay_ms": 100}
    main["models"].update(models)
    main["defaults"] = {"shutdown_grace_s": GRACE_S, "lease_s": 30}
    (folder / "metergate.yaml").write_text(yaml.safe_dump(main))


class Serving:
    """A gateway, and what its customer asks of it."""

    def __init__(self, shell: Shell, pid: int, url: str, session: aiohttp.ClientSession) -> None:
        self.shell, self.pid, self.url, self.session = shell, pid, url, session
        self.headers: dict[str, str] = {}

    async def admin(self, path, body):
        headers = {"X-Admin-Key": ADMIN_KEY}
        async with self.session.post(f"{self.url}/api/admin{path}", json=body, headers=headers) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def customer(self):
        account = await self.admin("/accounts", {"name": "Ada", "plan": "enterprise"})
        await self.admin(f"/accounts/{account['id']}/grants", {"amount_usd": "5.00", "idempotency_key": "a"})
        key = await self.admin("/keys", {"account_id": account["id"], "name": "laptop"})
        self.headers = {"Authorization": f"Bearer {key['key']}"}

    def workers(self):
        return {each.pid for each in psutil.Process(self.pid).children()}

    async def reload(self):
        return await asyncio.to_thread(self.shell.run, "reload", "--json")


@pytest.fixture
async def serving(request, shell, stores):
    """A gateway of two workers, or as many as a test says."""
    workers = str(getattr(request, "param", 2))
    configure(shell.folder / "config")
    shell.env = {**stores, "ADMIN_API_KEY": ADMIN_KEY, "METERGATE_CONFIG": str(shell.folder / "config")}
    with shell.running("serve", "--workers", workers) as running:
        url = running.until("Metergate serves on").rpartition(" ")[2]
        async with aiohttp.ClientSession() as session:
            made = Serving(shell, running.process.pid, url, session)
            await made.customer()
            yield made


async def responded(socket):
    await socket.send_str(json.dumps(CREATE))
    kinds = []
    while not kinds or kinds[-1] not in ("response.completed", "error"):
        kinds.append(json.loads(await socket.receive_str(timeout=120))["type"])
    return kinds[-1]


async def test_streams_and_websockets_go_on_while_new_workers_serve_what_is_configured_anew(serving):
    before = serving.workers()
    async with (
        aiohttp.ClientSession() as held,  # whose connections end with it: an idle one keeps an old worker for a while
        held.ws_connect(f"{serving.url}/v1/responses", headers=serving.headers) as socket,
        held.post(f"{serving.url}/v1/chat/completions", json=STREAM, headers=serving.headers) as stream,
    ):
        assert await responded(socket) == "response.completed"
        await stream.content.readline()
        configure(serving.shell.folder / "config", another={"provider": "local"})
        assert (await serving.reload()).json["reloaded"] is True
        new = serving.workers() - before
        assert len(new) == 2
        # Whoever asks on another connection asks a new worker.
        async with (
            aiohttp.ClientSession() as others,
            others.get(f"{serving.url}/v1/models", headers=serving.headers) as answer,
        ):
            assert "another" in {each["id"] for each in (await answer.json())["data"]}
        assert await responded(socket) == "response.completed"
        assert (await stream.content.read()).endswith(b"data: [DONE]\n\n")
        assert serving.workers() & before
    await until(lambda: serving.workers() == new)


@pytest.mark.parametrize("serving", [1], indirect=True)  # each of its reloads starts as many anew
async def test_a_connection_that_is_kept_gets_one_more_answer_and_ends(serving):
    before = serving.workers()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as one:
        body = {**STREAM, "stream": False}
        for path in ("/v1/chat/completions", "/v1/models", "/v1/chat/completions"):
            for _ in range(2):
                how = one.get if path == "/v1/models" else one.post
                options = {} if path == "/v1/models" else {"json": body}
                async with how(f"{serving.url}{path}", headers=serving.headers, **options) as answer:
                    assert answer.status == 200
                    said = answer.headers.get("Connection")
                    await answer.read()
            assert said is None
            assert (await serving.reload()).code == 0
            async with how(f"{serving.url}{path}", headers=serving.headers, **options) as answer:
                assert (answer.status, answer.headers["Connection"]) == (200, "close")
                await answer.read()
    assert serving.workers() - before


async def test_workers_that_can_not_serve_leave_the_old_ones(serving):
    before = serving.workers()
    file = serving.shell.folder / "config" / "metergate.yaml"
    right = file.read_text()
    file.write_text("providers: [")
    refused = await serving.reload()
    assert "Workers that were not replaced serve on" in refused.failed(REFUSED)
    assert serving.workers() == before
    file.write_text(right)
    os.kill(serving.pid, signal.SIGUSR2)  # as systemd does
    await until(lambda: len(serving.workers() - before) >= 2)


async def test_schema_that_they_need_and_is_not_there_leaves_the_old_ones(serving, database_url):
    before = serving.workers()
    database = Database(database_url, size=1)
    await database.execute("DELETE FROM migrations")
    await database.close()
    assert "Workers that were not replaced serve on" in (await serving.reload()).failed(REFUSED)
    assert serving.workers() == before


def test_where_none_runs_it_says_so(shell):
    assert "No gateway runs from" in shell.run("reload").failed(UNREACHABLE)
    (shell.data_dir / FOLDER).mkdir(parents=True)
    assert "No gateway runs from" in shell.run("reload").failed(UNREACHABLE)


@pytest.fixture
def usr2():
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


def test_the_end_of_a_reload_that_had_begun_before_is_not_taken_for_ones_own(shell, usr2):
    with announced(shell.data_dir, print) as told:
        told.begin()

        def obey(*_):
            told.end("the first")
            time.sleep(1)  # in which the command looks; however long, it must not take this end for its own
            told.begin()
            told.end("the second")

        signal.signal(signal.SIGUSR2, obey)
        assert "the second" in shell.run("reload").failed(REFUSED)


def test_a_gateway_that_still_starts_survives_a_reload(shell, usr2):
    with announced(shell.data_dir, print):
        assert shell.run("reload", "--json").json["reloaded"] is True
