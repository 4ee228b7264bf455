"""`metergate up` as a new user meets it: one start, everything that hangs on it, its end, the next start."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from billing.cli.output import CommandFailed
from gateway.commands.up import _metrics_folder, stopping_s
from gateway.config.defaults import Defaults
from gateway.process.supervisor import KILL_MARGIN_S
from tests.support.commands import CHECKOUT, WAIT_S, Answer, Running, Shell, at_terminal, do_curl, fetch
from tests.support.transcripts import Screen, steps_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the user that Postgres runs as can pass through; with a configuration of nobody's."""
    made = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@dataclass(frozen=True)
class Up:
    """A gateway that `up` runs, and what it printed."""

    shell: Shell
    running: Running
    url: str
    curl: str
    key: str

    def chat(self, key: str | None = None) -> Answer:
        return do_curl(re.sub(r"\$\(cat .+?\)", key, self.curl) if key else self.curl)


@dataclass(frozen=True)
class Way:
    """Options and variables of an operator command."""

    options: tuple[str, ...]
    env: dict[str, str]


@pytest.fixture(scope="module")
def shell(folder: Path) -> Shell:
    return Shell(folder)


@pytest.fixture(scope="module")
def up(shell: Shell) -> Iterator[Up]:
    """The first whole start on a data folder, which other tests of this file share; one before it was broken off."""
    with shell.running("up", "--log-format", "json") as running:
        running.until_stderr("Starting Postgres")
        assert running.end(signal.SIGTERM) == 0
        assert shell.processes() == []
        assert {json.loads(line)["logger"] for line in running.stderr.splitlines()} == {"metergate"}
    with shell.running("up", "--workers", "2") as running:
        url = running.until("Metergate serves on").rpartition(" ")[2]
        curl = running.until("curl")
        running.until("Ctrl-C")
        yield Up(shell, running, url, curl, (shell.data_dir / "first-key").read_text().strip())


def test_it_says_what_there_is(up):
    text = "\n".join(up.running.lines)
    assert "5.00 USD" in text
    assert len(up.running.lines) == 5
    assert up.key not in text + up.running.stderr  # a pipe may end in a log
    assert f"Bearer $(cat {up.shell.data_dir / 'first-key'})" in up.curl
    assert "Providers on: local; off: " in text
    assert " s)" in up.running.stderr  # how long each step took


def test_the_curl_line_works(up):
    answer = up.chat()
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]


def test_a_system_without_temporary_files_needs_the_data_folder_alone(tmp_path, monkeypatch):
    """As a container's, whose own file system can't be written to."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with _metrics_folder(tmp_path) as folder:
        assert Path(folder).parent == tmp_path
    with pytest.raises(CommandFailed, match="set TMPDIR"):
        _metrics_folder(tmp_path / "nothing")


def test_metrics_are_read_at_an_address_of_their_own(up):
    address = next(line for line in up.running.stderr.splitlines() if "Metrics are at" in line).rpartition(" ")[2]
    deadline = time.monotonic() + WAIT_S
    while True:  # until the second worker serves too
        with urllib.request.urlopen(address, timeout=WAIT_S) as answer:  # noqa: S310
            if b"metergate_workers 2.0" in answer.read():
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert fetch(f"{up.url}/metrics").status == 401


def test_the_first_key_is_kept_for_its_owner_alone(up):
    file = up.shell.data_dir / "first-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"{up.key}\n"


def test_keys_of_operators_and_services_are_private(up):
    for name in ("admin-key", "service-key"):
        file = up.shell.data_dir / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert re.search(rf"Keys, in {re.escape(str(file.parent))}:.* {name} of ", up.running.lines[-1])
        assert file.read_text().strip() not in "\n".join(up.running.lines)
    headers = {
        "X-API-Key": (up.shell.data_dir / "service-key").read_text().strip(),
        "X-Service-Name": "containers",
    }
    found = fetch(f"{up.url}/api/service/accounts/acc_none/balance", headers=headers)
    assert found.status == 404


def test_pages_are_at_the_port_that_was_found(up):
    account_id = up.shell.run("operator", "account", "list", "--json").json["data"][0]["id"]
    scope = ("--scope", "billing:setup")
    key = up.shell.run("operator", "key", "create", account_id, "payer", *scope, "--json").json["key"]
    env = {"METERGATE_API_URL": up.url, "METERGATE_API_TOKEN": key}
    assert up.shell.run("billing", "setup", "--json", env=env).json["url"].startswith(f"{up.url}/pay/")


def test_the_operator_signs_in_to_the_console_by_a_link(up):
    assert "/console/enter/" not in "\n".join(up.running.lines)
    link = up.shell.run("operator", "login-link", "--json").json["url"]
    _enter(up.url, link)


def _enter(url: str, link: str) -> None:
    assert link.startswith(f"{url}/console/enter/")
    request = urllib.request.Request(link, b"", {"Origin": url})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as led:  # to a page; the cookie is what counts
        urllib.request.build_opener(NoRedirect).open(request, timeout=WAIT_S)
    assert (led.value.code, "mg_session=o." in led.value.headers["Set-Cookie"]) == (303, True)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Answers as they come."""

    def redirect_request(self, *given: object) -> None:
        return None


def test_a_second_one_says_that_it_runs(up):
    message = up.shell.run("up").failed(1)
    assert "already running" in message
    assert str(up.running.process.pid) in message


def test_no_secret_is_on_a_command_line(up):
    admin_key = (up.shell.data_dir / "admin-key").read_text().strip()
    for line in up.shell.processes():
        assert up.key not in line
        assert admin_key not in line


def test_its_address_is_left_for_operator_commands(up):
    file = up.shell.data_dir / "api-url"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    nowhere = {"REDIS_URL": "redis://127.0.0.1:1"}  # a command that opened the stores itself would call it
    assert up.shell.run("operator", "account", "list", "--json", env=nowhere).json["data"]
    other_key = {**nowhere, "ADMIN_API_KEY": "mga_0123456789abcdefghijklmnopqrstuv"}  # not the one that `up` has
    assert up.shell.run("operator", "account", "list", env=other_key).code == 0


@pytest.fixture(params=["found", "named", "on its stores"])
def way(up: Up, request: pytest.FixtureRequest) -> Way:
    """How an operator command reaches the gateway that runs: by the address that it left, by one that is given, or not
    at all, on the stores that it keeps."""
    if request.param == "on its stores":
        stores = json.loads((up.shell.data_dir / "endpoints.json").read_text())
        return Way((), {"DATABASE_URL": stores["database_url"], "REDIS_URL": stores["redis_url"]})
    return Way(("--api-url", up.url) if request.param == "named" else (), {})


def test_a_refusal_is_explained(up, way):
    account = up.shell.run("operator", "account", "create", "Poor", "--json").json
    key = up.shell.run("operator", "key", "create", account["id"], "k", "--json").json
    refused = up.chat(key["key"])
    assert refused.status == 402
    assert refused.json["error"]["billing"]["setup_url"].endswith("/console/credit")  # its workers take local payments
    deadline = time.monotonic() + WAIT_S
    show = ("operator", "requests", "--refused", "--key", key["id"], *way.options)
    while not (listed := up.shell.run(*show, "--json", env=way.env).json["data"]):
        assert time.monotonic() < deadline
    request_id = refused.headers["x-request-id"]
    assert [(each["id"], each["code"]) for each in listed] == [(request_id, "billing_required")]
    assert "billing_required" in up.shell.run(*show, env=way.env).stdout
    assert up.shell.run("operator", "requests", "--account", account["id"], *way.options, env=way.env).code == 0
    explained = up.shell.run("explain", request_id)
    assert explained.code == 0
    assert "billing: required usd" in explained.stdout
    assert up.shell.run("explain", request_id, "--json").json == listed[0]
    assert "no refusal of it is kept" in up.shell.run("explain", "nothing").failed(1)


def test_operator_commands_reach_it_every_way(up, way):
    def run(*arguments):
        return up.shell.run(*arguments, *way.options, env=way.env)

    account = run("operator", "account", "create", "Acme", "--json").json
    granted = run("operator", "grant", account["id"], "2.50", "--note", "hello", "--json").json
    assert granted["balance_usd"] == "2.50"
    once = ("--idempotency-key", "r1", "--yes")
    refund = ("operator", "refund", account["id"], "1.25", "--note", "sorry", *once, "--json")
    assert [run(*refund).json["balance_usd"] for _ in range(2)] == ["3.75", "3.75"]
    assert run("operator", "refund", account["id"], "2", *once).code == 1
    changed = run(
        "operator",
        "account",
        "set",
        account["id"],
        "--plan",
        "starter",
        "--status",
        "suspended",
        "--credit-limit",
        "7.50",
        "--json",
    ).json
    assert (changed["plan"], changed["status"], changed["credit_limit_usd"]) == ("starter", "suspended", "7.50")
    quotas = ("operator", "account", "quotas", account["id"], "--json")
    wanted = [{"window": "day", "metric": "tokens", "limit": 100_000}]
    assert run(*quotas, "--quota", "day:tokens=100000").json["quotas"] == wanted
    shown = run(*quotas).json
    assert shown["quotas"] == wanted
    assert shown["plan_quotas"]
    assert run(*quotas, "--clear").json["quotas"] == []
    assert run("operator", "account", "set", account["id"], "--status", "active").code == 0
    key = run("operator", "key", "create", account["id"], "k", "--json").json
    assert up.chat(key["key"]).status == 200
    assert run("operator", "key", "revoke", key["id"]).code == 0
    deadline, refused = time.monotonic() + WAIT_S, 0
    while refused < 6:  # in a row: by both workers
        if up.chat(key["key"]).status == 401:
            refused += 1
        else:
            assert time.monotonic() < deadline  # told: by itself a worker would believe its memory for far longer
            refused = 0


def test_it_can_be_verified_and_explained_while_it_runs(up):
    request_id = up.chat().headers["x-request-id"]
    deadline = time.monotonic() + WAIT_S
    while (explained := up.shell.run("explain", request_id, "--json")).code != 0:  # until the ledger has it
        assert time.monotonic() < deadline, explained
    assert explained.json["lines"]
    assert "demo" in up.shell.run("explain", request_id).stdout
    verified = up.shell.run("ledger", "verify", "--json").json
    assert verified["ok"]
    assert {check["name"] for check in verified["checks"]} == {
        "balances",
        "sum",
        "lots",
        "transfers",
        "prices",
        "rollups",
        "dropped",
        "of all",
        "by names",
    }


def test_the_way_of_a_customer_is_as_the_documentation_tells_it(up):
    """What is asked for at a terminal comes from the environment; what all workers have to hear of is tried again."""
    steps, screen = list(steps_of(CHECKOUT / "docs" / "getting-started.md")), Screen()
    env = {"METERGATE_PASSWORD": "tulip anvil quartz row"}
    for step in steps:
        if step.typed == "metergate auth verify":
            up.running.until_stderr("is the code to verify")
            env["METERGATE_OTP"] = re.findall(r"\b([0-9]{6}) is the code", up.running.stderr)[-1]
        deadline, again = time.monotonic() + WAIT_S, step.typed.startswith(("curl", "metergate usage"))
        while not step.has_come(output := typed(up, screen.typed(step), env)):
            assert again, (step, output)
            assert time.monotonic() < deadline, (step, output)
        screen.show(output)
    assert len(steps) == 12


def typed(up: Up, line: str, env: dict[str, str]) -> str:
    """Return the output of a command or a call."""
    if line.startswith("curl"):
        output = json.dumps(do_curl(line.replace("http://127.0.0.1:8080", up.url)).json, separators=(",", ":"))
    else:
        result = up.shell.run(*shlex.split(line)[1:], env=env)
        output = result.stdout + result.stderr
    return output.replace(up.url, "http://127.0.0.1:8080")


def test_the_doctor_finds_nothing_wrong(up):
    report = up.shell.run("doctor", "--json").json
    assert {check["status"] for check in report["checks"]} == {"ok"}


def test_a_worker_that_dies_is_replaced(up):
    def workers():
        found = set()
        for child in psutil.Process(up.running.process.pid).children():
            with suppress(psutil.Error):  # one that has just ended
                if {"gateway.app", "--fd"} <= set(child.cmdline()):  # the process of pages has none
                    found.add(child.pid)
        return found

    before = workers()
    os.kill(min(before), signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while len(workers()) != 2 or workers() == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert up.chat().status == 200


def test_it_stops_and_starts_again_where_it_was(up):
    """The last of those that share the gateway: it ends it."""
    assert up.running.end(signal.SIGINT) == 0
    assert up.shell.processes() == []
    assert not (up.shell.data_dir / "endpoints.json").exists()
    assert not (up.shell.data_dir / "api-url").exists()
    admin_key = (up.shell.data_dir / "admin-key").read_text()
    with up.shell.running("up") as again:
        url = again.until("Metergate serves on").rpartition(" ")[2]
        again.until("Ctrl-C")
        assert "mg_" not in "\n".join(again.lines)
        assert (up.shell.data_dir / "admin-key").read_text() == admin_key
        port = url.rpartition(":")[2]
        line = up.curl.replace(up.url.rpartition(":")[2], port)
        assert do_curl(line).status == 200
        assert fetch(f"{url}/readyz").status == 200
        assert again.end(signal.SIGHUP) == 0  # as of a terminal that is closed
    assert up.shell.processes() == []
    code, shown = at_terminal(up.shell, "up", typed={"Ctrl-C stops it.\r\n": "\x03"})
    assert code == 0
    result = shown[shown.index("Metergate serves on") : shown.index("Ctrl-C")].splitlines()
    assert len(result) == 5
    assert "/console/enter/" in result[2]
    assert all(f"{line}\x1b[2K" in shown.replace("\r", "") for line in ("Starting Redis ...", "up to date ..."))


def test_an_address_in_use_is_heard_before_an_account_is_made(folder, up_port):
    shell = Shell(folder / "port", {"LISTEN_ADDR": f"127.0.0.1:{up_port}"})
    shell.folder.mkdir()
    shell.folder.chmod(0o711)
    message = shell.run("up").failed(1)
    assert f"127.0.0.1:{up_port} is in use" in message
    assert "LISTEN_ADDR" in message
    assert not (shell.data_dir / "admin-key").exists()
    assert shell.run("operator", "account", "list", "--json").json["data"] == []  # with servers of its own
    assert shell.processes() == []


@pytest.fixture
def up_port() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_whoever_stops_workers_waits_until_they_have_settled_what_they_cut():
    """As an answer that was cut by a deployment would be free otherwise."""
    defaults = Defaults()
    assert stopping_s(defaults) == defaults.process.shutdown_grace_s + defaults.stores.postgres_timeout_s
    compose = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())
    patience_s = float(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert patience_s > stopping_s(defaults) + KILL_MARGIN_S
