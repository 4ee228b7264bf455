"""A database for a moment: an embedded server in a folder that goes with it. Nothing of it touches the ledger."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from billing.cli import Output
from gateway.embedded.servers import EmbeddedServers

# As root, Postgres runs as a user who has to pass through; nobody else may look.
FOLDER_MODE: Final = 0o711
# It is thrown away: nothing has to outlive a loss of power.
OPTIONS: Final = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}


@asynccontextmanager
async def scratch_database(output: Output) -> AsyncIterator[str]:
    """Give the URL of an empty database, below TMPDIR. Raises `EmbeddedServersError`."""
    with tempfile.TemporaryDirectory(prefix="metergate-scratch-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, FOLDER_MODE)
        async with EmbeddedServers(Path(folder) / "data", report=output.note, postgres_options=OPTIONS) as servers:
            yield servers.endpoints.database_url
