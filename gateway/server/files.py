"""How many files, which are connections above all, a worker's process may have open, and so how many clients it takes.

This file owns that clients never take the last of them: a worker that can't open any more can't reach Postgres, Redis
or a provider, nor accept a connection to say so.
"""

import logging
import resource
from typing import Final

OWN_FILES: Final = 128
"""For the stores, logs, metrics, and what is opened for a moment."""

logger = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Let this process open as many files as its system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(wanted: int) -> int:
    """How many clients' connections there may be of those that the configuration allows: each may need another one, to
    a provider."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return wanted
    possible = max(1, (most - OWN_FILES) // 2)
    if possible < wanted:
        logger.warning(
            "at most %d connections are taken, not max_connections (%d): this process may open %d files (ulimit -n)",
            *(possible, wanted, most),
        )
    return min(possible, wanted)
