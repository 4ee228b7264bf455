"""The gateway's supervisor as a process of its own, so that the whole gateway can be killed.

python -m tests.chaos.gateway PARENT_PID LISTEN WORKERS
"""

import asyncio
import logging
import os
import sys

from billing.ledger.leases import ending_leases
from gateway.commands.up import stopping_s
from gateway.config.settings import load_settings
from gateway.process.supervisor import Hooks, die_with_parent, supervise


def main(parent_pid: str, listen: str, workers: str) -> int:
    die_with_parent(int(parent_pid))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_supervised(listen, int(workers)))


async def _supervised(listen: str, workers: int) -> int:
    async with ending_leases(os.environ["DATABASE_URL"]) as end_lease:
        return await supervise(
            (sys.executable, "-m", "tests.chaos.worker"),
            workers=workers,
            listen=listen,
            env=os.environ,
            shutdown_grace_s=stopping_s(load_settings(os.environ).defaults),
            hooks=Hooks(on_ready=lambda address: print(f"ready {address}", flush=True), on_end=end_lease),
        )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
