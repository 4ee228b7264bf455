"""`metergate body-logs`: bodies are found by their request, from a folder and a bucket, and nothing broken is shown."""

import asyncio
import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from ulid import ULID

from billing.cli import USAGE
from gateway.body_logs.places import file_name, open_place
from gateway.body_logs.sealed_file import Keys
from gateway.config.settings import SHIPPED_FOLDER
from tests.support.buckets import BUCKET

pytestmark = pytest.mark.slow

OLD, NEW = "the old key of these tests, 32 bytes", "the new key of these tests, 32 bytes"
MOMENT = datetime(2026, 11, 24, 23, 59, tzinfo=UTC)
IDS = [str(ULID.from_datetime(MOMENT + timedelta(seconds=second))) for second in range(6)]
MADE = (
    ("2026-11-24", "acc_1", IDS[:2], OLD),
    ("2026-11-25", "acc_2", IDS[2:4], NEW),
    ("2026-11-25", "acc_1", IDS[4:], NEW),
)


@pytest.fixture
def configured(tmp_path):
    """Makes the variables of a configuration with these logs."""

    def make(to, **environ):
        folder = tmp_path / "config"
        shutil.copytree(SHIPPED_FOLDER, folder, dirs_exist_ok=True)
        with (folder / "metergate.yaml").open("a") as file:
            section = {"to": str(to), "encryption_key": "${BODY_KEY}", "encryption_keys_before": ["${OLD_KEY}"]}
            file.write(f"\nbody_logs: {json.dumps({**section, 'accounts': 'all'})}\n")
        return {"METERGATE_CONFIG": str(folder), "BODY_KEY": NEW, "OLD_KEY": OLD, **environ}

    return make


def put(to, environ=None):
    """Write a file of each of two accounts on two days, the first by an older key."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (environ or {}).items():
            patched.setenv(name, value)
        place = open_place(str(to), 0, os.environ)
        names = []
        for day, account, ids, key in MADE:
            lines = [
                json.dumps({"request_id": each, "request": {"of": account}}, separators=(",", ":")) for each in ids
            ]
            names.append(file_name(day, account, (ids[0], ids[-1]), "01G"))
            asyncio.run(place.put(names[-1], Keys(key).seal(account, "".join(f"{line}\n" for line in lines).encode())))
        return names


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_requests_are_found(shell, configured, tmp_path, kind, request):
    bucket = request.getfixturevalue("bucket") if kind == "bucket" else {}
    to = f"{BUCKET}/bodies" if bucket else tmp_path / "bodies"
    names, env = put(to, bucket), configured(to, **bucket)
    assert shell.run("body-logs", "list", env=env).stdout.split() == [names[0], names[2], names[1]]
    of_one = ("--day", "2026-11-25", "--account", "acc_2")
    assert shell.run("body-logs", "list", *of_one, env=env).stdout.split() == names[1:2]
    for request_id, account in zip(IDS, ("acc_1", "acc_1", "acc_2", "acc_2", "acc_1", "acc_1"), strict=True):
        found = shell.run("body-logs", "show", request_id, "--json", env=env).json
        assert found == {"request_id": request_id, "request": {"of": account}}
    assert '"of": "acc_2"' in shell.run("body-logs", "show", IDS[2], env=env).stdout
    lines = shell.run("body-logs", "decrypt", names[0], env=env).stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == IDS[:2]
    assert "No file has request" in shell.run("body-logs", "show", IDS[0], "--account", "acc_2", env=env).failed(1)


def test_what_is_not_there_or_was_changed_is_told(shell, configured, tmp_path):
    to = tmp_path / "bodies"
    env = configured(to)
    assert shell.run("body-logs", "list", env=env).stdout == "There are no files.\n"
    names = put(to)
    assert "is no id of a request" in shell.run("body-logs", "show", "nonsense", env=env).failed(USAGE)
    assert "--day is a day" in shell.run("body-logs", "list", "--day", "../..", env=env).failed(USAGE)
    assert "There is no file" in shell.run("body-logs", "decrypt", "a/../b", env=env).failed(USAGE)
    without = {**env, "OLD_KEY": "k" * 32}
    assert "was sealed by the key" in shell.run("body-logs", "show", IDS[0], env=without).failed(1)
    file = to / names[0]
    sealed = bytearray(file.read_bytes())
    sealed[-1] ^= 1
    file.write_bytes(sealed)
    told = shell.run("body-logs", "decrypt", str(file), env=env).failed(1)
    assert "was changed or cut" in told
    assert OLD not in told
    shutil.copy(to / names[1], to / "2026-11-25" / "acc_1" / (to / names[1]).name)
    (to / names[1]).unlink()
    assert "another account's" in shell.run("body-logs", "show", IDS[2], env=env).failed(1)


def test_without_logs_it_says_so(shell):
    assert "has no `body_logs`" in shell.run("body-logs", "list").failed(USAGE)
