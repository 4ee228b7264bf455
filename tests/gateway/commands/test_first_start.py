"""The admin key's file: private from the start, made once."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from billing.keys.secrets import made_at_random
from gateway.commands.data_folder import BadKeyFile, admin_key_file, ensure_admin_key, find_admin_key, read_key_file


def test_it_is_made_once_and_private(tmp_path):
    assert find_admin_key(tmp_path) is None
    before = os.umask(0)
    try:
        key = ensure_admin_key(tmp_path / "data")
    finally:
        os.umask(before)
    path = admin_key_file(tmp_path / "data")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made_at_random(key.reveal())
    assert ensure_admin_key(tmp_path / "data") == key == find_admin_key(tmp_path / "data")
    assert [each.name for each in path.parent.iterdir()] == ["admin-key"]


def test_of_many_makers_one_wins(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(ensure_admin_key, [tmp_path] * 64))
    assert len({key.reveal() for key in keys}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["admin-key"]


@pytest.mark.parametrize("content", [b"", b" \n", b"two words\n", b"two\nlines", b"\xff", b"x" * 5000, b"bell\x07"])
def test_what_holds_no_key(tmp_path, content):
    admin_key_file(tmp_path).write_bytes(content)
    with pytest.raises(BadKeyFile, match="holds no key") as bad:
        find_admin_key(tmp_path)
    assert "words" not in str(bad.value)


def test_a_key_that_could_be_guessed_is_not_served_with(tmp_path):
    admin_key_file(tmp_path).write_text("swordfish-swordfish-123\n")
    with pytest.raises(BadKeyFile, match="remove the file, and another is made") as bad:
        ensure_admin_key(tmp_path)
    assert "swordfish" not in str(bad.value)
    admin_key_file(tmp_path).unlink()
    assert ensure_admin_key(tmp_path)


def test_files_that_can_not_be(tmp_path):
    with pytest.raises(BadKeyFile, match="Cannot read"):
        read_key_file(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(BadKeyFile, match="Cannot make"):
        ensure_admin_key(tmp_path / "file")
