"""Where the stores of a command are. This file owns the order in which they are looked for:

DATABASE_URL and REDIS_URL, each for itself; the servers that `metergate up` keeps running on the data folder; else
servers started on it for the length of the command.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from billing.cli import CommandFailed, Output
from billing.ledger.migrate import migrate, pending
from billing.ledger.postgres import Database
from gateway.cli.failures import named_store
from gateway.embedded import AlreadyRunning, EmbeddedServers, Endpoints, running
from gateway.settings import Environment, Settings, read_environment_alone


@dataclass(frozen=True, slots=True)
class Stores:
    """URLs of both; they may hold passwords. `embedded` says that Redis is ours, `started` that this command has
    started what is embedded."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    embedded: bool
    started: bool
