"""The address that a running `up` leaves for operator commands: who is believed, and given the admin key."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.commands import data_folder
from gateway.commands.data_folder import (
    api_url_file,
    ensure_admin_key,
    find_own_gateway,
    publish_api_url,
    withdraw_api_url,
)
from gateway.embedded.folders import locked
from tests.support.commands import CHECKOUT, Shell

URL = "http://127.0.0.1:8080"
PUBLISHES = """
import sys
from pathlib import Path
from gateway.commands.data_folder import publish_api_url
from gateway.embedded.folders import locked
with locked(Path(sys.argv[1])):
    publish_api_url(Path(sys.argv[1]), sys.argv[2])
    print("published", flush=True)
    sys.stdin.read()
"""


@contextmanager
def published_by_another(data_dir: Path, url: str = URL) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder and has published its address."""
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISHES, str(data_dir), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        assert process.stdout.readline() == "published\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_address_and_the_key_of_a_living_gateway_are_found(tmp_path):
    key = ensure_admin_key(tmp_path)
    with published_by_another(tmp_path):
        found = find_own_gateway(tmp_path)
    assert (found.url, found.admin_key) == (URL, key)
    assert key.reveal() not in repr(found)


def test_the_file_is_private_whole_and_goes(tmp_path):
    publish_api_url(tmp_path, URL)
    publish_api_url(tmp_path, URL)
    assert [path.name for path in tmp_path.iterdir()] == ["api-url"]
    assert api_url_file(tmp_path).stat().st_mode & 0o777 == 0o600
    withdraw_api_url(tmp_path)
    withdraw_api_url(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_killed_is_not_called_also_when_another_has_the_folder(tmp_path):
    ensure_admin_key(tmp_path)
    with published_by_another(tmp_path) as process:
        process.kill()
        process.wait()
        assert api_url_file(tmp_path).exists()
        assert find_own_gateway(tmp_path) is None
        with locked(tmp_path):
            assert find_own_gateway(tmp_path) is None


def test_who_lives_without_the_lock_is_not_called(tmp_path):
    ensure_admin_key(tmp_path)
    publish_api_url(tmp_path, URL)  # by this process, which lives
    assert find_own_gateway(tmp_path) is None
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert find_own_gateway(tmp_path) is None
    with locked(tmp_path):
        assert find_own_gateway(tmp_path) is not None


def test_another_machine_is_not_called(tmp_path, monkeypatch):
    ensure_admin_key(tmp_path)
    with published_by_another(tmp_path):
        monkeypatch.setattr(data_folder, "_machine", lambda: "another")
        assert find_own_gateway(tmp_path) is None


@pytest.mark.parametrize("text", ["", "http://127.0.0.1:8080", "{}", "\0", '{"url": 1, "pid": 1, "machine": ""}', "[]"])
def test_a_file_that_says_something_else_is_left_alone(tmp_path, text):
    ensure_admin_key(tmp_path)
    with locked(tmp_path):
        api_url_file(tmp_path).write_text(text)
        api_url_file(tmp_path).chmod(0o600)
        assert find_own_gateway(tmp_path) is None


def test_a_file_that_others_may_have_written_is_left_alone(tmp_path):
    ensure_admin_key(tmp_path)
    with locked(tmp_path):
        publish_api_url(tmp_path, URL)
        api_url_file(tmp_path).chmod(0o666)
        assert find_own_gateway(tmp_path) is None


def test_without_a_key_in_the_folder_nobody_is_called(tmp_path):
    with locked(tmp_path):
        publish_api_url(tmp_path, URL)
        assert find_own_gateway(tmp_path) is None


@pytest.mark.slow
def test_a_command_calls_the_address_that_it_finds_and_none_where_it_is_told_of_a_database(tmp_path):
    shell = Shell(tmp_path)
    shell.data_dir.mkdir()
    ensure_admin_key(shell.data_dir)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: whoever calls it is refused
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        away = f"postgresql://u@127.0.0.1:{nobody.getsockname()[1]}/n?sslmode=disable"
        with published_by_another(shell.data_dir, url):
            assert f"{url} is unreachable" in shell.run("operator", "account", "list").failed(3)
            env = {"DATABASE_URL": away, "REDIS_URL": "redis://127.0.0.1:1"}
            assert "Postgres" in shell.run("operator", "account", "list", env=env).failed(3)
