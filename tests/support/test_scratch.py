"""What killed runs leave behind is removed by the next one, and nothing of anybody else."""

import mmap
import subprocess
import sys
from pathlib import Path

from tests.support.scratch import PREFIX, Scratch, remove_segments

HELD = """
import sys
from pathlib import Path
from tests.support.scratch import Scratch
print(Scratch(Path(sys.argv[1])).folder, flush=True)
sys.stdin.read()
"""


def test_a_killed_run_s_folder_is_removed_and_a_live_one_s_is_not(tmp_path):
    arguments = [sys.executable, "-c", HELD, str(tmp_path)]
    runs = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [Path(run.stdout.readline().strip()) for run in runs if run.stdout is not None]
    (folders[0] / "pytest-of-somebody").mkdir()
    others = tmp_path / "somebody-s"
    others.mkdir()
    runs[0].kill()
    runs[0].wait()
    mine = Scratch(tmp_path)
    assert set(tmp_path.iterdir()) == {folders[1], others, mine.folder}
    mine.remove()
    assert set(tmp_path.iterdir()) == {folders[1], others}
    runs[1].kill()
    for run in runs:
        run.communicate()


def test_shared_memory_that_nobody_has_mapped_is_removed(tmp_path):
    dead, live, other = (tmp_path / name for name in ("PostgreSQL.1", "PostgreSQL.2", f"{PREFIX}x"))
    for path in (dead, live, other):
        path.write_bytes(bytes(mmap.PAGESIZE))
    with live.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        remove_segments(tmp_path)
        assert set(tmp_path.iterdir()) == {live, other}
