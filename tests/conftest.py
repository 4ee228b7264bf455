"""Fixtures for every test: see `tests.servers` and `tests.redis_cluster`.

What tests write lies in memory where the machine has room for it: making, migrating and dropping a database is a matter
of fsync. TMPDIR names another place.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers", "tests.redis_cluster"]

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - folders of our own are made in it
LEAST_ROOM_BYTES: Final = 3 << 30
"""Of the servers' data and logs, several of each at a time, and half as much again."""


def has_room(folder: Path) -> bool:
    """Whether a folder has LEAST_ROOM_BYTES, and programs can be run from it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= LEAST_ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


if "TMPDIR" not in os.environ and has_room(MEMORY):
    tempfile.tempdir = str(MEMORY)

# A machine that is busy with other things makes no test wrong: no property is a matter of time.
settings.register_profile("metergate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metergate")
