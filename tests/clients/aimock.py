"""aimock: a server that answers as providers do, from fixtures. Installed where the libraries are."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.libraries import INSTALLED, node

PROGRAM = INSTALLED / "npm" / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
LISTENING = re.compile(r"listening on (http://[0-9.:]+)")
WAIT_S = 120.0


def missing() -> str | None:
    """Why it can't be run here; None where it can."""
    return None if PROGRAM.exists() else "aimock is not installed: `make .venv/clients/.npm` does it"


@asynccontextmanager
async def aimock(folder: Path, fixtures: Sequence[dict[str, Any]]) -> AsyncIterator[str]:
    """Answer by these fixtures; its URL, without a path. They are written into `folder`."""
    file = folder / "fixtures.json"
    file.write_text(json.dumps({"fixtures": list(fixtures)}))
    process = await asyncio.create_subprocess_exec(
        node(),
        str(PROGRAM),
        "--port",
        "0",
        "--fixtures",
        str(file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            async for line in process.stdout:
                if found := LISTENING.search(line.decode()):
                    yield found[1]
                    break
    finally:
        process.terminate()
        await process.communicate()
