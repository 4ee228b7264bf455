"""A folder and a bucket: files come back, days are removed, and what fails is told."""

import os
import stat

import pytest

from gateway.body_logs.places import Folder, file_name, may_have, open_place
from gateway.object_stores import StoreFailed
from tests.support.buckets import BUCKET

DAYS = ("2026-11-24", "2026-11-25")
NAMES = [file_name(day, account, ("01A", "01C"), "01G") for day in DAYS for account in ("acc_1", "acc_10")]


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def place(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path / "bodies", 0)
    environ = request.getfixturevalue("bucket")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environ.items():
            patched.setenv(name, value)
        return open_place(f"{BUCKET}/logs/2026-11-24", 0, os.environ)


async def test_files_come_back_and_days_are_removed(place):
    for name in NAMES:
        await place.put(name, b"before")
        await place.put(name, name.encode())
    assert await place.days() == list(DAYS)
    assert await place.names(DAYS[0]) == NAMES[:2]
    assert await place.names(DAYS[1], "acc_1") == NAMES[2:3]
    assert await place.get(NAMES[1]) == NAMES[1].encode()
    await place.remove(DAYS[0])
    assert await place.days() == [DAYS[1]]
    assert await place.names(DAYS[0]) == []
    with pytest.raises(StoreFailed):
        await place.get(NAMES[0])
    await place.remove(DAYS[1])
    await place.remove(DAYS[1])
    assert await place.days() == []


def test_names_say_what_a_file_may_have():
    assert [may_have(NAMES[0], each) for each in ("019", "01A", "01B", "01C", "01D")] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert not may_have("2026-11-25/acc_1/else.jsonl.gz.sealed", "01A")
    for wrong in ("", "../acc", "acc/1", "a" * 101):
        with pytest.raises(ValueError, match="no name"):
            file_name(DAYS[0], wrong, ("1", "1"), "g")


async def test_a_folder_is_its_owners_alone_and_keeps_what_is_not_ours(tmp_path):
    place = Folder(tmp_path / "new" / "bodies", 0)
    mask = os.umask(0)
    try:
        await place.put(NAMES[0], b"x")
    finally:
        os.umask(mask)
    file = tmp_path / "new" / "bodies" / NAMES[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folders = (place.path, file.parent.parent, file.parent)
    assert [stat.S_IMODE(each.stat().st_mode) for each in folders] == [0o700] * 3
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    (place.path / "README").write_text("ours")
    (file.parent / "note").write_text("ours")
    assert (await place.days(), await place.names(DAYS[0])) == ([DAYS[0]], [NAMES[0]])


async def test_only_what_we_have_written_is_removed(tmp_path):
    place, away = Folder(tmp_path / "bodies", 0), tmp_path / "away"
    for name in NAMES[:2]:
        await place.put(name, b"x")
        await Folder(away, 0).put(name, b"x")
    day, file = place.path / DAYS[0], place.path / NAMES[0]
    file.with_name(f".{file.name}.new").write_text("undone")
    kept = [day / "README", file.with_name("note"), file.with_name(f"{file.name}.bak"), day / "acc_3" / "deep" / "x"]
    for each in kept:
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text("theirs")
    links = [day / "acc_4", file.with_name("01A-01C-01H.jsonl.gz.sealed"), place.path / DAYS[1]]
    for link, to in zip(links, ("2026-11-24/acc_1", NAMES[0], DAYS[0]), strict=True):
        link.symlink_to(away / to)
    assert [await place.remove(each) for each in (*DAYS, "2026-11-23")] == [3, 0, 0]
    assert [each.exists() for each in (*kept, *links)] == [True] * 7
    assert (file.exists(), (place.path / NAMES[1]).parent.exists()) == (False, False)
    assert sorted(each.name for each in file.parent.iterdir()) == sorted([links[1].name, kept[1].name, kept[2].name])
    assert await Folder(away, 0).names(DAYS[0]) == NAMES[:2]


@pytest.mark.slow
async def test_only_objects_that_we_have_written_are_removed(bucket, monkeypatch):
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    place = open_place(f"{BUCKET}/shared", 0, os.environ)
    theirs = [f"{DAYS[0]}/report.csv", f"{DAYS[0]}/acc_1/note", f"{DAYS[0]}/else/{NAMES[0]}"]
    for name in (*theirs, *NAMES[:2]):
        await place.put(name, b"x")
    assert [await place.remove(DAYS[0]) for _ in range(2)] == [2, 0]
    for name in theirs:
        assert await place.get(name) == b"x"


async def test_a_disk_that_is_full_is_told(tmp_path):
    with pytest.raises(StoreFailed, match="folder_free_bytes"):
        await Folder(tmp_path, 1 << 60).put(NAMES[0], b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match=r"file: Not a directory|file: File exists"):
        await Folder(tmp_path / "file", 0).put(NAMES[0], b"x")
    with pytest.raises(StoreFailed, match="No such file"):
        await Folder(tmp_path, 0).get(NAMES[0])


async def test_a_bucket_that_is_away_is_told(monkeypatch):
    monkeypatch.setattr("gateway.body_logs.places.TRIED_S", 0.1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-a-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    place = open_place("s3://away/logs", 0, os.environ)
    for work in (
        place.put(NAMES[0], b"x"),
        place.get(NAMES[0]),
        place.days(),
        place.names(DAYS[0]),
        place.remove(DAYS[0]),
    ):
        with pytest.raises(StoreFailed) as told:
            await work
        assert "s3://away/logs" in str(told.value)
        assert "secret-of-a-test" not in str(told.value)
