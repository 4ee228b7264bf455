"""What `metergate init` writes, and that it overwrites nothing unasked."""

import os
import stat

import pytest

from gateway.commands.init import WouldOverwrite, init_folder
from gateway.config.settings import load_settings
from gateway.config.source import FILES, SHIPPED_FOLDER
from tests.support.commands import Shell

WRITTEN = (*(f"config/{name}" for name in FILES), ".env")


def test_it_writes_copies_and_a_private_env(tmp_path, monkeypatch):
    folder = tmp_path / "made" / "for it"
    umask = os.umask(0)
    try:
        assert init_folder(folder, force=False) == tuple(folder / name for name in WRITTEN)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted((*FILES, ".env"))
    assert (folder / "config" / "plans.yaml").read_bytes() == (SHIPPED_FOLDER / "plans.yaml").read_bytes()
    monkeypatch.chdir(folder)
    assert load_settings({}).folder == folder / "config"


@pytest.mark.parametrize("there", WRITTEN)
def test_what_is_there_stays(tmp_path, there):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(WouldOverwrite) as refused:
        init_folder(tmp_path, force=False)
    assert refused.value.paths == (path,)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    assert path.read_text() == "mine"


def test_force_overwrites_and_makes_private(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / ".env").symlink_to(elsewhere)
    init_folder(tmp_path, force=True)
    (tmp_path / "config" / "plans.yaml").write_text("")
    (tmp_path / ".env").chmod(0o644)
    init_folder(tmp_path, force=True)
    assert (tmp_path / "config" / "plans.yaml").read_bytes() == (SHIPPED_FOLDER / "plans.yaml").read_bytes()
    assert stat.S_IMODE((tmp_path / ".env").lstat().st_mode) == 0o600
    assert elsewhere.read_text() == "mine"


def test_the_command_says_what_it_wrote_and_what_it_did_not(tmp_path):
    shell = Shell(tmp_path)
    assert shell.run("init", "here", "--json").json == {"written": [f"here/{name}" for name in WRITTEN]}
    (tmp_path / "here" / ".env").write_text("OPENAI_API_KEY=x")
    message = shell.run("init", "here").failed(1)
    assert "here/.env" in message
    assert "--force" in message
    assert (tmp_path / "here" / ".env").read_text() == "OPENAI_API_KEY=x"
    assert shell.run("init", "here", "--force").code == 0
    assert "OPENAI_API_KEY=\n" in (tmp_path / "here" / ".env").read_text()
    (tmp_path / "file").write_text("")
    assert "Cannot write" in shell.run("init", "file/below").failed(1)
