"""Follows prices.yaml while a gateway runs. This file owns when another table of prices comes into force.

Every process looks at the file each POLL_S. A file that changed is read off the event loop; its rows are in the ledger
before a request is priced by one of them. A file that can't be read leaves the table before it in force, and says so in
the log, once for each change, and in a metric.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from billing.errors import MetergateError
from billing.pricing.table import PriceTable
from gateway.config.files import FileMarks, file_marks, read_file
from gateway.config.prices import read_prices
from gateway.config.problems import ConfigError, Problems

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5


def load_prices(path: Path, environ: Mapping[str, str]) -> PriceTable:
    """Return the table of a file. Raises `ConfigError` with every problem of it."""
    problems = Problems()
    value = read_file(path, str(path), environ, problems)
    table = PriceTable(()) if value is None else read_prices(value)
    problems.refuse()
    return table


class PriceFollower:
    """Puts each new content of a file of prices in force: `store` makes its rows known to the ledger, `apply` prices
    requests by it. `in_force` was read after the file had the marks `seen`."""

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        in_force: PriceTable,
        seen: FileMarks,
        store: Callable[[PriceTable], Awaitable[object]],
        apply: Callable[[PriceTable], None],
    ) -> None:
        self._path = path
        self._environ = environ
        self._rows = in_force.rows
        self._store = store
        self._apply = apply
        self._seen = seen
        self.broken = False
        """Whether the file can't be read, so that a table before it is in force."""

    async def look(self) -> None:
        """Put the file in force where it has changed. A failure of the ledger is tried again with the next look."""
        marks = file_marks(self._path)
        if marks == self._seen:
            return
        try:
            table = await asyncio.to_thread(load_prices, self._path, self._environ)
        except ConfigError as error:
            self._seen, self.broken = marks, True
            logger.error("%s is not read, and the prices before it stay in force: %s", self._path, error)
            return
        if table.rows != self._rows:
            try:
                await self._store(table)
            except MetergateError as error:
                logger.warning("the prices of %s wait for the ledger: %s", self._path, error)
                return
            self._apply(table)
            self._rows = table.rows
            logger.info("prices of %s are in force: %d rows", self._path, len(table.rows))
        self._seen, self.broken = marks, False
