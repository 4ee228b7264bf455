"""Every command has its exit code: 0 done, 1 refused, 2 wrong usage, 3 unreachable; never with a traceback."""

import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.command_tree import COMMANDS, OF_PEOPLE, ON_FILES
from tests.support.commands import Shell, nobody_at

pytestmark = pytest.mark.slow
# Commands on the stores themselves, as they are used.
ON_STORES = {
    "serve": "serve",
    "migrate": "migrate",
    "ledger verify": "ledger verify",
    "ledger set-aside list": "ledger set-aside list",
    "ledger set-aside replay": "ledger set-aside replay --all",
    "ledger set-aside discard": "ledger set-aside discard x",
    "explain": "explain x",
    "reconcile": "reconcile",
    "backup": "backup x",
    "export": "export --to x --since 2026-01-01",
    "restore": f"restore {Path(__file__)}",
}
OF_THE_API = {
    "operator account create": "operator account create x",
    "operator account show": "operator account show acc_x",
    "operator account list": "operator account list",
    "operator account set": "operator account set acc_x --status closed",
    "operator account quotas": "operator account quotas acc_x",
    "operator grant": "operator grant acc_x 5",
    "operator refund": "operator refund acc_x 5 --yes",
    "operator requests": "operator requests --refused",
    "operator provider reconcile": "operator provider reconcile --provider x --since 2026-01-01",
    "operator provider list": "operator provider list",
    "operator provider test": "operator provider test local",
    "operator org domains": "operator org domains org_x",
    "operator adjust": "operator adjust acc_x --add 5 --reason y --yes",
    **{f"operator {what}": f"operator {what} acc_x --reason y" for what in ("suspend", "close", "reopen")},
    "operator plan list": "operator plan list",
    "operator plan show": "operator plan show free",
    "operator plan give": "operator plan give acc_x free",
    "operator margin": "operator margin",
    "operator lots": "operator lots acc_x",
    "operator coupon create": "operator coupon create Spring 5 --yes",
    "operator coupon list": "operator coupon list",
    "operator coupon disable": "operator coupon disable cpn_x",
    "operator order list": "operator order list",
    "operator order show": "operator order show ord_x",
    "operator order credit": "operator order credit prk_x --yes",
    "operator order dismiss": "operator order dismiss prk_x --note y",
    "operator order refund": "operator order refund ord_x --yes",
    "operator exports list": "operator exports list",
    "operator exports parked": "operator exports parked",
    "operator exports retry": "operator exports retry x --all",
    "operator audit": "operator audit",
    "operator jobs list": "operator jobs list",
    "operator exporters subjects": "operator exporters subjects --parked",
    "operator exporters assign": "operator exporters assign x acc_x",
    "operator login-link": "operator login-link",
    "operator price reprice": "operator price reprice openai/gpt-4o --since 2026-01-01 --until 2026-02-01",
    "operator user list": "operator user list",
    **{f"operator user {what}": f"operator user {what} usr_x" for what in ("show", "approve", "enable", "disable")},
    "operator user remove-app": "operator user remove-app usr_x",
    "operator user operator": "operator user operator usr_x on",
    "operator stripe events": "operator stripe events",
    "operator stripe replay": "operator stripe replay evt_x",
    "operator stripe reconcile": "operator stripe reconcile",
    **{each: each for each in (f"operator revenue {what}" for what in ("show", "charges", "returns", "subscriptions"))},
    "operator webhooks list": "operator webhooks list",
    "operator webhooks add": "operator webhooks add https://example.com",
    **{f"operator webhooks {what}": f"operator webhooks {what} x" for what in ("remove", "test", "deliveries")},
    "operator key create": "operator key create acc_x k",
    "operator key list": "operator key list acc_x",
    "operator key update": "operator key update key_x --name y",
    "operator key revoke": "operator key revoke key_x",
}
REFUSED = [
    "explain x",
    "ledger set-aside discard x",
    "operator account show acc_x",
    "operator account quotas acc_x",
    "operator account set acc_x --status closed",
    "operator grant acc_x 5",
    "operator refund acc_x 5 --yes",
    "operator key create acc_x k",
    "operator key update key_x --name y",
    "operator key revoke key_x",
    "operator price try nobody/nothing input_tokens=1",
    "operator exporters assign x acc_x",
]
DONE = [
    "migrate",
    "ledger verify",
    "ledger set-aside list",
    "ledger set-aside replay --all",
    "reconcile",
    "doctor",
    "operator account create x",
    "operator account list",
    "operator requests --refused",
    "operator jobs list",
    "operator exporters subjects --parked",
    "operator provider list",
    "operator price list",
    "operator price check",
    "operator price try openai/gpt-4o input_tokens=1",
]
# `up` brings its own stores; `connect` writes files of coding agents; `doctor` says of stores that are away that they
# are, and ends with 1; `reload` asks for a gateway that runs here, and for nothing else; logs of bodies are in a
# place of their own.
ALONE = ("up", "doctor", "connect", "reload", "body-logs list", "body-logs show", "body-logs decrypt")
# It makes the configuration, and reads none.
UNCONFIGURED = ("init",)


PASSWORD = "swordfish-of-all-the-tests"


def away() -> tuple[str, dict[str, str]]:
    """An address that nothing listens on, and both stores there."""
    address = nobody_at()
    url = f"postgresql://user:{PASSWORD}@{address}/name?sslmode=disable"
    return address, {"DATABASE_URL": url, "REDIS_URL": f"redis://:{PASSWORD}@{address}"}


def each_failed(
    shell: Shell, commands: Sequence[str], code: int, env: dict[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Assert that each command ends with this code and a reason; return their messages."""
    for command, result in zip(commands, shell.run_each([each.split() for each in commands], env), strict=True):
        assert result.code == code, (command, result)
        yield command, result.failed(code)


def test_no_command_is_left_out():
    ends = {each for each in COMMANDS if not any(other.startswith(f"{each} ") for other in COMMANDS)}
    assert ends == {*ON_STORES, *OF_THE_API, *OF_PEOPLE, *ON_FILES, *ALONE, *UNCONFIGURED}


def test_who_is_not_signed_in_and_a_gateway_that_is_away(shell):
    url = {"METERGATE_API_URL": "http://127.0.0.1:1"}
    commands = ["auth token", "keys list", "usage totals", "org members"]
    for command, said in each_failed(shell, commands, 1, url):
        assert "metergate auth login" in said, command
    assert len(list(each_failed(shell, commands[1:], 3, {**url, "METERGATE_API_TOKEN": "e30.e30.x"}))) == 3


def test_wrong_usage_is_2(shell):
    every = [*OF_PEOPLE, *ON_STORES, *OF_THE_API, *ON_FILES, *ALONE, *UNCONFIGURED]
    for command, said in each_failed(shell, [f"{each} --nope" for each in every], 2):
        assert "--nope" in said, command
    any_number = ("ledger set-aside replay", "operator price try", "operator org domains")
    bounded = [each for each in every[len(OF_PEOPLE) :] if each not in any_number]
    assert list(each_failed(shell, [f"{each} too many of these" for each in bounded], 2))


def test_a_wrong_setting_is_2(shell):
    wrong = {"MAX_BODY_BYTES": "1MB", "SMTP_PORT": "x"}
    for command, said in each_failed(shell, [*ON_STORES.values(), *OF_THE_API.values(), "up"], 2, wrong):
        assert "environment: MAX_BODY_BYTES: " in said, command
        assert "environment: SMTP_PORT: " in said, command
    assert not shell.data_dir.exists()
    result = shell.run("doctor", env=wrong)
    assert result.code == 1
    assert "MAX_BODY_BYTES" in result.stdout


def test_a_folder_without_data_is_3_and_stays_so(shell):
    """`up` alone makes a database; `serve` is given its stores, and says so."""
    on_stores = [each for name, each in ON_STORES.items() if name != "serve"]
    for command, said in each_failed(shell, [*on_stores, *OF_THE_API.values()], 3):
        assert f"There is no data in {shell.data_dir}" in said, command
        assert "metergate up" in said, command
    doctor = shell.run("doctor")
    assert doctor.code == 3
    assert "There is no data" in doctor.stdout
    for half in ({"DATABASE_URL": "postgresql://u@127.0.0.1:1/n"}, {"REDIS_URL": "redis://127.0.0.1:1"}):
        assert list(each_failed(shell, ["reconcile", "operator account list"], 3, half))
    assert not shell.data_dir.exists()


def test_stores_that_are_away_are_3(shell):
    address, stores = away()
    for command, said in each_failed(shell, [*ON_STORES.values(), *OF_THE_API.values()], 3, stores):
        assert address in said, command
        assert PASSWORD not in said, command
    doctor = shell.run("doctor", env=stores)
    assert doctor.code == 1
    for finding in ("FAIL  postgres", "FAIL  redis", "correct DATABASE_URL"):
        assert finding in doctor.stdout
    assert PASSWORD not in doctor.stdout + doctor.stderr


def test_a_gateway_that_is_away_is_3(shell):
    url = f"http://{nobody_at()}"
    env = {"METERGATE_API_URL": url, "ADMIN_API_KEY": PASSWORD}
    for command, said in each_failed(shell, [*OF_THE_API.values()], 3, env):
        assert url in said, command
        assert PASSWORD not in said, command
    (shell.folder / "key").write_text(f"{PASSWORD}\n")
    message = shell.run(
        "operator", "grant", f"acc_{'1' * 26}", "5", "--yes", "--api-url", url, "--token-file", "key"
    ).failed(3)
    assert "--idempotency-key " in message
    assert PASSWORD not in message
    assert not shell.data_dir.exists()


def test_what_is_done_is_0_and_what_is_refused_1(shell, stores):
    for command, result in zip(DONE, shell.run_each([each.split() for each in DONE], stores), strict=True):
        assert result.code == 0, (command, result)
    assert len(list(each_failed(shell, REFUSED, 1, stores))) == len(REFUSED)


def test_a_redis_alone_that_is_away_or_none_is_3(shell, stores):
    """Nobody there, options that there are not, and a server that is none; no fault of ours."""
    commands = ["serve", "reconcile", "operator requests --refused"]
    assert list(each_failed(shell, commands, 3, {**stores, "REDIS_URL": away()[1]["REDIS_URL"]}))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoRedis) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for options in ("?timeout=x", "?nope=1", ""):
            url = {"REDIS_URL": f"redis://:swordfish@127.0.0.1:{server.server_address[1]}{options}"}
            each = [command.split() for command in ("doctor", *commands)]
            for command, result in zip(each, shell.run_each(each, {**stores, **url}), strict=True):
                assert "swordfish" not in result.stdout + result.stderr
                assert "a fault in metergate" not in result.stderr
                assert result.code == (1 if command == ["doctor"] else 3), (command, options, result)
        server.shutdown()


class NoRedis(socketserver.BaseRequestHandler):
    """Answers as an HTTP server does."""

    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
