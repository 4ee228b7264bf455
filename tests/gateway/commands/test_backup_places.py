"""Backups in a folder and in a bucket, by their times; and one that is proved before it is kept."""

import asyncio
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from billing.cli import REFUSED, USAGE, CommandFailed
from billing.database.connection import Database
from gateway.commands.backup_places import Bucket, name_at, prune_folder, split, superseded
from gateway.object_stores import in_bucket
from tests.support.commands import CHECKOUT

pytestmark = pytest.mark.slow

CRON_JOB = yaml.safe_load((CHECKOUT / "deploy" / "kubernetes" / "backup" / "backup.yaml").read_text())
POD = CRON_JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]
MOMENT = datetime(2025, 1, 31, 4, 5, 6, tzinfo=UTC)
NAMES = [name_at(MOMENT + timedelta(days=day)) for day in range(5)]


def execute(url, statement):
    async def work():
        database = Database(url, size=1)
        try:
            await database.execute(statement)
        finally:
            await database.close()

    asyncio.run(work())


def test_names_order_backups_by_time_and_only_ours_are_removed():
    assert NAMES[0] == "metergate-20250131T040506Z.backup"
    assert superseded([*NAMES, "mine.backup", "metergate-.backup", f".{NAMES[0]}.new"], 3) == NAMES[1::-1]
    assert superseded(NAMES, 9) == []


def test_what_killed_backups_left_goes_with_those_that_are_older_than_the_kept_ones(tmp_path):
    old, kept, last = (f"metergate-2026010{day}T000000Z.backup" for day in (1, 2, 3))
    left = {name: f".{name}.new" for name in (old, last)}
    for name in (kept, *left.values(), ".of-somebody-else.new"):
        (tmp_path / name).touch()
    assert prune_folder(tmp_path, 1) == []
    assert {each.name for each in tmp_path.iterdir()} == {kept, left[last], ".of-somebody-else.new"}


def test_places():
    assert in_bucket("s3://backups/a")
    assert not in_bucket("/var/backups")
    assert split("s3://backups/a/b.backup") == ("s3://backups/a", "b.backup")
    assert split("s3://backups/b.backup") == ("s3://backups", "b.backup")
    for wrong in ("s3://", "s3://backups/", "s3://backups"):
        with pytest.raises(CommandFailed, match="s3://BUCKET/NAME"):
            split(wrong)
    with pytest.raises(CommandFailed, match="s3://BUCKET/PREFIX"):
        Bucket.of("s3:///a")


def test_a_folder_keeps_the_newest_and_what_is_not_ours(shell, stores, database_url):
    folder = shell.folder / "backups"
    folder.mkdir()
    for name in [*NAMES, "mine.txt"]:
        (folder / name).write_text("older")
    made = shell.run("backup", f"{folder}/", "--keep", "2", "--verify", "--json", env=stores).json
    file = Path(made["file"])
    assert sorted(each.name for each in folder.iterdir()) == sorted([NAMES[-1], file.name, "mine.txt"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["removed"] == NAMES[-2::-1]
    assert made["proof"] | {"restored_s": 0, "verified_s": 0} == {
        "ok": True,
        "accounts": made["proof"]["accounts"],
        "events": 0,
        "restored_s": 0,
        "verified_s": 0,
    }
    rehearsed = shell.run("restore", str(file), "--rehearse", env=stores)
    assert "its ledger verified in" in rehearsed.stdout
    assert "--keep needs a folder" in shell.run("backup", str(folder / "one"), "--keep", "1", env=stores).failed(USAGE)


def test_a_folder_that_is_missing_is_made(shell, stores, database_url):
    folder = shell.folder / "new"
    assert Path(shell.run("backup", f"{folder}/", "--json", env=stores).json["file"]).parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "No such file" in shell.run("backup", f"{folder}/none/deeper/", env=stores).failed(1)


def test_a_ledger_that_does_not_verify_is_not_kept(shell, stores, database_url):
    execute(
        database_url,
        "INSERT INTO accounts (id, name, plan, balance_nano) VALUES ('acc_1', 'One', 'free', 5)",
    )
    folder = shell.folder / "backups"
    folder.mkdir()
    told = shell.run("backup", f"{folder}/", "--verify", env=stores).failed(REFUSED)
    assert "its ledger does not verify" in told
    assert list(folder.iterdir()) == []


async def test_a_bucket_keeps_the_newest_and_a_ledger_comes_back(shell, stores, database_url, bucket, monkeypatch):
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    there = Bucket.of("s3://backups/ledger", os.environ)
    older = shell.folder / "older"
    older.write_bytes(b"o" * 70_000_000)  # of several parts
    for name in NAMES:
        await there.put(name, older if name == NAMES[-1] else Path(__file__))
    env = {**stores, **bucket}
    made = await asyncio.to_thread(shell.run, "backup", "s3://backups/ledger", "--keep", "2", "--json", env=env)
    assert made.json["removed"] == NAMES[-2::-1]
    await there.get(NAMES[-1], older)
    assert older.stat().st_size == 70_000_000
    where = made.json["file"]
    assert where.startswith("s3://backups/ledger/metergate-")
    await asyncio.to_thread(
        execute, database_url, "INSERT INTO accounts (id, name, plan) VALUES ('acc_later', 'Later', 'free')"
    )
    restored = await asyncio.to_thread(shell.run, "restore", where, "--force", "--json", env=env)
    assert restored.json["file"] == where
    database = Database(database_url, size=1)
    assert await database.value("SELECT count(*) FROM accounts WHERE id = 'acc_later'") == 0
    await database.close()


def test_the_pod_of_kubernetes_writes_one_that_was_verified(shell, stores, bucket):
    """Its command, by its variables; where it may write is the folder of TMPDIR alone."""
    (container,) = POD["containers"]
    scratch = shell.folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o2777)  # as volumes are that a group owns
    shell.folder.chmod(0o711)
    variables = {**bucket, "BACKUP_TO": "s3://backups/pods", "BACKUP_KEEP": "14"}
    command = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in container["command"]]
    assert command[0] == "metergate"
    env = {**stores, **variables, "TMPDIR": str(scratch)}
    ran = shell.run(*command[1:], "--json", env=env)
    assert ran.json["proof"]["ok"]
    assert ran.json["file"].startswith("s3://backups/pods/metergate-")
    assert list(scratch.iterdir()) == []


def test_a_bucket_that_is_not_there_is_told_in_a_sentence(shell, stores, bucket):
    env = {**stores, **bucket}
    told = shell.run("backup", "s3://nothing-there/ledger", env=env).failed(REFUSED)
    assert "s3://nothing-there/ledger" in told
    assert bucket["AWS_SECRET_ACCESS_KEY"] not in told
    shell.run("restore", "s3://backups/ledger/not-there.backup", "--force", env=env).failed(REFUSED)
