"""Fixtures for every test (`tests.support`: `servers`, `redis_cluster`), which tests `make test-quick`
leaves out, and how many processes run them.

What tests write lies in one folder (`tests.support.scratch`), in memory where the machine has room for it. TMPDIR names
another place.
"""

import gc
import importlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.garbage import settle
from tests.support.scratch import Scratch, choose_place
from tests.support.shipped import share_prices

pytest_plugins = ["tests.support.servers", "tests.support.redis_cluster"]

if "PYTEST_XDIST_WORKER" not in os.environ:  # whose environment is that of the process that started it
    scratch = Scratch(choose_place())
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch.folder)


def pytest_configure() -> None:
    """Have what every gateway reads be read once."""
    share_prices()


def pytest_unconfigure() -> None:
    """Remove what the run has written; what failed tests left stays until the next run."""
    if "PYTEST_XDIST_WORKER" not in os.environ and not list(scratch.folder.glob("pytest-of-*/*/*")):
        scratch.remove()


HERE = Path(__file__).parent
# Tests wait more than they compute: four keep two cores busy, and their servers fit into LEAST_ROOM_BYTES.
PROCESSES = 4
# So many are run by one process: starting others, each with servers of its own, takes longer than they do.
FEW_FILES = 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` means; 0 is this one."""
    files = {Path(str(config.invocation_params.dir), each.partition("::")[0]) for each in config.args}
    return 0 if len(files) <= FEW_FILES and all(file.is_file() for file in files) else PROCESSES


# Where every test is marked `slow`: each starts servers or gateways of its own, or the file takes seven seconds or more
# on a busy machine.
SLOW = (
    "tests/billing/holds/redis/test_cluster.py",
    "tests/billing/holds/redis/test_connection.py",
    "tests/billing/holds/test_clocks.py",
    "tests/billing/holds/test_concurrency.py",
    "tests/billing/holds/test_epochs.py",
    "tests/billing/holds/test_lease.py",
    "tests/billing/holds/test_locked_rows.py",
    "tests/billing/holds/test_upkeep.py",
    "tests/billing/holds/test_reconcile.py",
    "tests/billing/holds/test_recovery.py",
    "tests/billing/holds/test_restored_ledger.py",
    "tests/billing/holds/test_scripts.py",
    "tests/billing/holds/test_user_limits.py",
    "tests/billing/holds/test_loading.py",
    "tests/billing/ledger/test_retention.py",
    "tests/billing/pricing/test_rows.py",
    "tests/billing/web/test_permissions.py",
)
SLOW_FIXTURES = frozenset({"redis_cluster"})


def pytest_collection(session: pytest.Session) -> None:
    """Have the garbage collector rest while thousands of tests are collected, all of which stay; and each process first
    import other modules of tests than the others do: in a new checkout each is compiled once, not by every process."""
    gc.disable()
    worker: dict[str, Any] = getattr(session.config, "workerinput", {})
    if worker and session.config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        first = int(worker["workerid"].removeprefix("gw"))
        for path in sorted(HERE.rglob("test_*.py"))[first :: worker["workercount"]]:
            with suppress(Exception, pytest.skip.Exception):  # collection tells of it
                importlib.import_module(".".join(path.relative_to(HERE.parent).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what is there as long as the run."""
    gc.enable()
    settle()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Have it pass over what a module has left, too, which else is looked at again with each that follows."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        settle()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it is and what it needs; a test elsewhere says `pytest.mark.slow` itself. They are
    begun first: no process is alone with one at the end."""
    for item in items:
        fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
        nightly = item.get_closest_marker("nightly") is not None
        if nightly or item.nodeid.startswith(SLOW) or not SLOW_FIXTURES.isdisjoint(fixtures):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


DAY_S = 86_400
# A quota of a day or a month that ends while a test runs is another one then, and within a minute of its end a refusal
# says that waiting helps.
LAST_OF_DAY_S = 90


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin no test so shortly before a day ends, in UTC: it begins with the next."""
    left_s = DAY_S - time.time() % DAY_S
    if left_s < LAST_OF_DAY_S:
        time.sleep(left_s)


# A machine that is busy with other things makes no test wrong: no property is a matter of time.
settings.register_profile("metergate", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metergate")
