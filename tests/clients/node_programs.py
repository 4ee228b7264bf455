"""Programs of Node.js that tests start."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.clients.libraries import INSTALLED, node

MODULES = INSTALLED / "npm" / "node_modules"
WAIT_S = 60.0
HOW = "is not installed: `make .venv/clients/.npm` does it, where a registry can be reached"


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (MODULES / package).exists(), reason=f"{package} {HOW}")


@asynccontextmanager
async def running(*arguments: str, ready: str, **options: Any) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A program of Node.js, and the line by which it says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        node(), *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, **options
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            async for line in process.stdout:
                if re.search(ready, line.decode()):
                    yield process, line.decode().strip()
                    break
    finally:
        process.terminate()
        await process.communicate()
