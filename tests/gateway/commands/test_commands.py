"""Commands where no `up` runs: help, wrong usage, nobody there, stores that are given."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime

import pytest
from ulid import ULID

from billing.accounts.accounts import Account
from billing.cli import REFUSED, UNREACHABLE
from billing.database.connection import Database
from billing.ledger.debits import Debit
from billing.ledger.writer import write_debits
from tests.billing.ledger.test_debits import debit
from tests.support.command_tree import COMMANDS, OF_PEOPLE, ON_FILES
from tests.support.commands import CHECKOUT, fetch, nobody_at, with_host

pytestmark = pytest.mark.slow

PASSWORD = "swordfish-of-all-the-tests"


PEOPLES = [
    "auth",
    "auth totp",
    "keys",
    "org",
    "org scim",
    "billing",
    "billing auto-recharge",
    "billing budget",
    "webhooks",
    *OF_PEOPLE,
]


OF_EVERY_COMMAND = {"--api-url", "--token-file", "--timeout", "--output", "--quiet", "--json"}
TIMED = ("doctor", "ledger set-aside list", "ledger set-aside replay", "ledger set-aside discard")


def test_help(shell):
    commands = ["", *COMMANDS]
    for command, result in zip(commands, shell.run_each([[*each.split(), "--help"] for each in commands]), strict=True):
        assert result.code == 0, (command, result)
        assert "Usage: metergate" in result.stdout, command
        if "COMMAND" not in result.stdout:
            listed = set(re.findall(r"(--[\w-]+)", result.stdout.partition("As for every command:")[2]))
            assert listed & OF_EVERY_COMMAND == options_of(command), command
    assert not shell.data_dir.exists()


def options_of(command: str) -> set[str]:
    """Which of the options that many commands have this one has."""
    if command == "connect":  # it writes the address into files, and calls nobody
        return {"--api-url", "--output", "--quiet", "--json"}
    calling = command in (*PEOPLES, "explain") or (command.startswith("operator ") and command not in ON_FILES)
    calls = {"--api-url", "--token-file"} if calling else set()
    return {"--output", "--quiet", "--json"} | calls | ({"--timeout"} if calls or command in TIMED else set())


def test_every_command_is_documented():
    page = (CHECKOUT / "docs" / "cli.md").read_text()
    assert len(COMMANDS) > 80
    assert [command for command in COMMANDS if f"metergate {command}" not in page] == []


def test_debits_that_were_set_aside_are_listed_and_written_once_they_can_be(shell, stores, database_url):
    made = [debit_of("acc_gone", str(ULID())) for _ in range(2)]

    async def set_aside():
        database = Database(database_url)
        assert await write_debits(database, made) == {}
        await database.execute("INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('x', 'y', 'a test')")
        await database.close()

    async def bring_the_account_back():
        database = Database(database_url)
        await database.execute("INSERT INTO accounts (id, name, plan) VALUES ('acc_gone', 'Back', 'free')")
        await database.close()

    asyncio.run(set_aside())
    listed = shell.run("ledger", "set-aside", "list", "--json", env=stores).json
    assert listed["total"] == 3
    assert [(each["id"], each["account_id"], each["charged_usd"], each["reason"]) for each in listed["debits"]] == [
        *((each.request_id, "acc_gone", "0.0000005", "the ledger has no such account") for each in made),
        ("x", None, None, "a test"),
    ]
    assert "acc_gone" in shell.run("ledger", "set-aside", "list", env=stores).stdout
    replay = ("ledger", "set-aside", "replay")
    refused = shell.run(*replay, made[0].request_id, "--json", env=stores)
    assert refused.code == 1
    (debit,) = json.loads(refused.stdout)["debits"]
    assert (debit["result"], debit["reason"]) == ("refused", "the ledger has no such account")
    shell.run(*replay, env=stores).failed(2)
    shell.run(*replay, "x", "--all", env=stores).failed(2)
    asyncio.run(bring_the_account_back())
    one = shell.run(*replay, made[0].request_id, "nobody", "--json", env=stores)
    assert one.code == 0
    results = {each["id"]: each["result"] for each in one.json["debits"]}
    assert results == {made[0].request_id: "written", "nobody": "absent"}
    rest = shell.run(*replay, "--all", "--json", env=stores)
    assert rest.code == 1
    results = {each["id"]: each["result"] for each in json.loads(rest.stdout)["debits"]}
    assert results == {made[1].request_id: "written", "x": "unreadable"}
    assert shell.run("ledger", "set-aside", "list", "--json", env=stores).json["total"] == 1
    discard = ("ledger", "set-aside", "discard", "x", "--json")
    assert shell.run(*discard, env=stores).json == {"id": "x", "discarded": True}
    assert "Nothing is set aside" in shell.run(*discard, env=stores).failed(1)
    assert shell.run("ledger", "set-aside", "list", "--json", env=stores).json == {"total": 0, "debits": []}


def debit_of(account_id: str, request_id: str) -> Debit:
    account = Account(account_id, "", "free", "active", None, 0, (), None, datetime.now(UTC), 0, 1)
    return debit(account, request_id)


def test_version(shell):
    """In a process of its own, as a person runs it: version, usage and exit codes."""
    assert re.fullmatch(r"metergate \d+\.\d+\.\d+\S*\n", shell.start("--version").stdout)
    for arguments in (("--help",), ("operator", "grant", "--help"), ("nope",)):
        assert shell.start(*arguments) == shell.run(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("up", "--nope"),
        ("up", "--workers", "0"),
        ("up", "--workers", "x"),
        ("operator",),
        ("explain",),
        ("operator", "account", "show"),
        ("operator", "account", "list", "--limit", "0"),
        ("up", "--timeout", "0"),
        ("up", "--api-url", "http://x"),
        ("reconcile", "--api-url", "http://x"),
    ],
)
def test_wrong_usage(shell, arguments):
    shell.run(*arguments).failed(2)
    assert not shell.data_dir.exists()


def test_no_admin_key_for_a_gateway_elsewhere(shell):
    way = ("--api-url", f"http://{nobody_at()}")
    assert "ADMIN_API_KEY" in shell.run("operator", "account", "list", *way).failed(2)
    assert "/no/where" in shell.run("operator", "account", "list", *way, "--token-file", "/no/where").failed(2)
    (shell.folder / "key").write_text("two words\n")
    assert "two words" not in shell.run("operator", "account", "list", *way, "--token-file", "key").failed(2)


def test_serve_needs_stores(shell):
    assert "metergate up" in shell.run("serve").failed(2)
    assert not shell.data_dir.exists()


def test_serve_refuses_a_database_that_lacks_migrations(shell, empty_database_url, redis_url):
    stores = {"DATABASE_URL": with_host(empty_database_url), "REDIS_URL": redis_url}
    assert "`metergate migrate`" in shell.run("serve", env=stores).failed(1)
    assert "`metergate migrate`" in shell.run("operator", "account", "list", env=stores).failed(1)
    assert "metergate migrate" in shell.run("doctor", env=stores).stdout
    assert shell.run("migrate", "--json", env=stores).json["applied"][0] == "0001_schema"
    assert shell.run("migrate", env=stores).stdout == "The schema is up to date.\n"
    assert shell.run("operator", "account", "list", env=stores).stdout == "There are none.\n"
    assert not shell.data_dir.exists()


def test_a_request_log_that_cannot_be_written(shell, stores):
    message = shell.run("serve", env={**stores, "METERGATE_REQUEST_LOG": "/no/where"}).failed(2)
    assert "METERGATE_REQUEST_LOG: /no/where: No such file or directory" in message


def test_serve_on_given_stores(shell, empty_database_url, redis_url):
    stores = {"DATABASE_URL": with_host(empty_database_url), "REDIS_URL": redis_url, "ADMIN_API_KEY": PASSWORD}
    with shell.running("serve", "--migrate", "--json", env=stores) as running:
        url = re.search(r'"url":"([^"]+)"', running.until('"url"'))
        assert fetch(f"{url[1]}/readyz").status == 200
        way = {"METERGATE_API_URL": url[1], "ADMIN_API_KEY": PASSWORD}
        made = shell.run("operator", "account", "create", "Acme", "--json", env=way).json
        direct = shell.run("operator", "account", "show", made["id"], "--json", env=stores).json
        assert direct == made
        link = shell.run("operator", "login-link", "--json", env=stores).json["url"]
        with urllib.request.urlopen(f"{url[1]}/console/{link.partition('/console/')[2]}") as page:  # noqa: S310
            assert page.status == 200, "the gateway does not know a link that was made on its stores"
        assert running.end(signal.SIGTERM) == 0
    assert shell.processes() == []


def test_up_with_a_database_that_is_given(shell, empty_database_url):
    database = {"DATABASE_URL": with_host(empty_database_url)}
    with shell.running("up", "--json", env=database) as running:
        started = json.loads(running.until('"url"'))
        assert fetch(f"{started['url']}/v1/models", {"Authorization": f"Bearer {started['key']}"}).status == 200
        listed = shell.run("operator", "account", "list", "--json", env=database).json
        assert [account["id"] for account in listed["data"]] == [started["account_id"]]
        assert running.end() == 0
    assert shell.processes() == []


def test_operator_commands_in_words(shell, stores):
    def say(*arguments):
        result = shell.run("operator", *arguments, env=stores)
        assert result.code == 0, result
        assert result.stderr == ""
        return result.stdout

    created = say("account", "create", "Acme", "--quota", "day:tokens=5@gpt-4*", "--credit-limit-usd", "1.5")
    account_id = re.search(r"acc_\w+", created)
    assert "day:tokens=5@gpt-4*" in created
    assert "1.50" in created
    assert "month:cost=2.00" in say("account", "quotas", account_id[0], "--quota", "month:cost=2")
    shown = say("account", "quotas", account_id[0])
    assert re.search(r"month:cost=2.00 +account", shown)
    assert re.search(r"minute:requests=60 +plan free", shown)
    assert say("account", "quotas", account_id[0]) == shown  # showing changes nothing
    of_user = ("account", "quotas", account_id[0], "--user", "usr_ana")
    assert say(*of_user).strip() == "There are none."
    assert re.search("day:tokens=9 +user usr_ana", say(*of_user, "--quota", "day:tokens=9"))
    assert say("account", "quotas", account_id[0]) == shown
    assert "day:tokens=9" in say(*of_user)
    assert say(*of_user, "--clear").strip() == "There are none."
    assert "month:cost" not in say("account", "quotas", account_id[0], "--clear")
    shown = say("account", "show", account_id[0])
    assert re.search(r"^quotas +none$", shown, re.MULTILINE)
    assert "minute:requests=60" in shown
    for _ in range(2):
        assert re.search(r"balance USD +3\.00", say("grant", account_id[0], "3", "--idempotency-key", "k"))
    text = say("key", "create", account_id[0], "laptop", "--total-tokens", "9", "--tag", "a=b", "--user-id", "u")
    key_id, secret = re.search(r"key_\w+", text), re.search(r"mg_\w+", text)
    assert "total:tokens=9" in text
    assert secret[0] not in say("key", "list", account_id[0])
    assert "desktop" in say("key", "update", key_id[0], "--name", "desktop", "--max-parallel", "2")
    assert re.search(r"max parallel +no bound", say("key", "update", key_id[0], "--clear", "max-parallel"))
    assert "revoked" in say("key", "revoke", key_id[0])
    assert "revoked 20" in say("key", "list", account_id[0])
    assert "--cursor" in [say("account", "create", "Other"), say("account", "list", "--limit", "1")][1]


def test_refusals_of_the_api(shell, stores):
    account_id, key_id = f"acc_{'1' * 26}", f"key_{'1' * 26}"

    def refused(*arguments):
        return shell.run("operator", *arguments, env=stores).failed(1)

    assert "acc_nobody" in refused("account", "show", "acc_nobody")
    assert "acc_nobody" in refused("grant", "acc_nobody", "5")
    assert "decimal" in refused("grant", account_id, "1e3")
    assert "key_nobody" in refused("key", "revoke", "key_nobody")
    assert "gold" in refused("account", "create", "Acme", "--plan", "gold")
    for arguments in (
        ("account", "create", "x", "--quota", "day"),
        ("key", "create", account_id, "x", "--tag", "nope"),
        ("account", "quotas", account_id, "--clear", "--quota", "day:tokens=1"),
        ("account", "set", account_id),
        ("requests", "--refused", "--since", "7d"),
        ("requests", "--refused", "--key", key_id, "--account", account_id),
        ("account", "set", account_id, "--status", "gone"),
        ("key", "update", key_id),
        ("key", "update", key_id, "--name", "x", "--tag", "a=b", "--clear", "tags"),
    ):
        shell.run("operator", *arguments, env=stores).failed(2)


def test_a_result_in_a_file(shell, stores):
    result = shell.run("operator", "account", "list", "--output", "result", "--json", env=stores)
    assert (result.code, result.stdout) == (0, "")
    assert (shell.folder / "result").read_text() == '{"data":[],"next_cursor":null}\n'
    assert "--output" in shell.run("operator", "account", "create", "x", "--output", "/no/where", env=stores).failed(1)
    assert shell.run("operator", "account", "list", "--json", env=stores).json["data"] == []


def test_servers_are_started_for_one_command(shell):
    with shell.running("up") as up:
        up.until("Metergate serves on")
    result = shell.run("operator", "account", "create", "Acme", "--json")
    assert "Starting the servers" in result.stderr
    assert shell.processes() == []
    listed = shell.run("operator", "account", "list", "--json", "--quiet")
    assert listed.stderr == ""
    assert result.json in listed.json["data"]


def test_a_data_folder_of_another_user(shell):
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    shell.data_dir.mkdir(mode=0o700)
    os.chown(shell.data_dir, 1, 1)
    result = shell.run("operator", "account", "list")
    assert "Traceback" not in result.stderr


def test_options_of_every_command_may_stand_before_it(shell, stores):
    account = shell.run("--json", "operator", "account", "create", "Acme", env=stores).json
    assert shell.run("--quiet", "--timeout", "60", "operator", "account", "list", env=stores).stdout == ""
    listed = shell.run("--timeout=60", "--json", "operator", "account", "list", "--limit", "5", env=stores)
    assert listed.json["data"] == [account]
    assert shell.run("--output", "result", "--json", "operator", "account", "list", env=stores).stdout == ""
    assert json.loads((shell.folder / "result").read_text()) == listed.json
    assert "No such option: --json" in shell.run("--json").failed(2)


def test_a_model_that_nobody_knows(shell, stores):
    account = shell.run("operator", "account", "create", "Acme", "--json", env=stores).json
    create = ("operator", "key", "create", account["id"], "k", "--json", "--model")
    typo = shell.run(*create, "gpt-4o-mimi", "--model", "demo", env=stores)
    assert "This gateway has no model 'gpt-4o-mimi'" in typo.stderr
    assert len(typo.json["warnings"]) == 1
    known = shell.run(*create, "demo", "--model", "gpt-4o*", env=stores)
    assert (known.stderr, known.json["warnings"]) == ("", [])
    update = ("operator", "key", "update", known.json["id"], "--model", "dmeo")
    assert "'dmeo'" in shell.run(*update, env=stores).stderr


def test_a_shell_completes_commands(shell):
    def completed(*words):
        env = {"_METERGATE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return shell.run(env=env).stdout.split()

    assert completed("metergate", "op") == ["operator"]
    assert completed("metergate", "operator", "account", "s") == ["show", "set"]
    assert completed("metergate", "operator", "account", "set", "--st") == ["--status"]
    assert completed("metergate", "migrate", "--api") == []  # it is taken, and not used


# What takes ten times as long to import as everything else that help needs.
HEAVY = ("aiohttp", "asyncpg", "redis", "rich.table", "yaml", "tiktoken", "uvloop", "asyncio", "gateway.runtime.wiring")
# The drivers of the stores, HTTP, and what typer has for parameters that are neither texts nor left out.
SERVING = ("aiohttp", "asyncpg", "redis", "hiredis", "gateway.runtime.wiring", "pydantic")
NOWHERE = {
    "DATABASE_URL": "postgresql://user@127.0.0.1:1/nowhere?sslmode=disable",
    "REDIS_URL": "redis://127.0.0.1:1",
}


def test_commands_import_nothing_that_they_do_not_need(stores):
    calling = ("operator account list", "operator requests --refused", "auth register --no-password --email a@b.c")
    helped = ("up", "operator account list", "doctor", "keys list")
    check_imports(
        *((command, {}, 0, HEAVY) for command in ("--version", "--help", *(f"{each} --help" for each in helped))),
        # These are called often, by scripts too.
        *((f"{command} --api-url http://127.0.0.1:1", {}, UNREACHABLE, SERVING) for command in calling),
        ("operator price try openai/gpt-4o-mini input_tokens=1", {}, 0, SERVING),
        # The settings' imports take longer than the whole table.
        ("operator price list", {}, 0, ("gateway.config.settings",)),
        # The API takes twice as long as what is done; Redis's client library as long as all of asyncpg.
        ("reconcile", stores, 0, ("aiohttp", "pydantic", "jwt", "gateway.runtime.wiring", "billing.api")),
        ("reconcile", NOWHERE, UNREACHABLE, ("redis", "aiohttp")),
        ("doctor", NOWHERE, REFUSED, ("aiohttp", "pydantic", "jwt")),
    )


Imports = tuple[str, dict[str, str], int, tuple[str, ...]]
IMPORTING = """
import json, os, sys
from gateway.commands import main
found = []
for command, env, _, names in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.environ.update(env)
        sys.argv = ["metergate", *command.split()]
        code = main()
        os.write(writer, json.dumps([code, [name for name in names if name in sys.modules]]).encode())
        os._exit(0)
    os.close(writer)
    found.append(json.loads(open(reader).read()))
print(json.dumps(found))
"""


def check_imports(*cases: Imports) -> None:
    """Run each command in a process that has imported nothing but `main`: it ends with its code, and has not imported
    any of the modules."""
    python = [sys.executable, "-c", IMPORTING, json.dumps(cases)]
    env = os.environ | {"ADMIN_API_KEY": "mga_" + "k" * 43}
    done = subprocess.run(python, capture_output=True, check=True, text=True, cwd=CHECKOUT, env=env)
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(case[0], code, imported) for case, (code, imported) in zip(cases, found, strict=True)] == [
        (command, code, []) for command, _, code, _ in cases
    ], done.stderr
