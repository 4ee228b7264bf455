"""A folder to run commands in, and stores that are there."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import Gateway, MakeGateway
from tests.support.commands import Shell, with_host


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    folder.chmod(0o711)
    yield Shell(folder)
    shutil.rmtree(folder)


@pytest.fixture
def stores(database_url: str, redis_url: str) -> dict[str, str]:
    """The test's own database, migrated, and the Redis of the run."""
    return {"DATABASE_URL": with_host(database_url), "REDIS_URL": redis_url}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def gateway(make_gateway: MakeGateway) -> Gateway:
    """One of this test's own: what operators' commands change is the whole installation's."""
    return await make_gateway()
