"""A supervisor of `supervised_worker`, as a process that the tests can signal.

python supervising.py asyncio|uvloop HOW WORKERS GRACE_S LISTEN [pages]
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

import uvloop

from gateway.process import supervisor
from gateway.process.supervisor import Hooks, supervise


def main(loop: str, how: str, workers: str, grace_s: str, listen: str, pages: str = "") -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

    supervisor.PAGES_MORE_S = supervisor.HAND_OVER_MORE_S = 0.2

    async def on_end(gateway_id: str) -> None:
        print(f"ended {gateway_id}", flush=True)

    work = supervise(
        [sys.executable, str(Path(__file__).with_name("supervised_worker.py")), how],
        workers=int(workers),
        listen=listen,
        env={"COLOUR": "green", "PYTHONPATH": os.environ["PYTHONPATH"]},
        shutdown_grace_s=float(grace_s),
        pages=bool(pages),
        hooks=Hooks(
            on_ready=lambda address: print(f"ready {address}", flush=True),
            on_end=on_end,
            on_replaced=lambda why_not: print(f"replaced {why_not or 'all'}", flush=True),
        ),
    )
    return asyncio.run(work) if loop == "asyncio" else uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
