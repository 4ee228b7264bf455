"""A process that holds the embedded servers until it is told to end: what `metergate up` is to them.

    python holder.py DATA_DIR SHARED_PARENT [--deaf-kernel]

It prints "ready" and the endpoints as JSON. Standard library only: it runs under any user's Python. SHARED_PARENT
stands for /var/lib/metergate. --deaf-kernel: servers don't hear of their parent's death, as on systems other than
Linux.
"""

import asyncio
import dataclasses
import json
import signal
import sys
from pathlib import Path

from gateway.embedded import folders, launch
from gateway.embedded.folders import EmbeddedServersError
from gateway.embedded.servers import EmbeddedServers


async def hold(data_dir: Path) -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with EmbeddedServers(data_dir, report=report) as servers:
        report("ready " + json.dumps(dataclasses.asdict(servers.endpoints)))
        await told.wait()
    report("ended")


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    folders.SHARED_PARENTS = (Path(sys.argv[2]),)
    if "--deaf-kernel" in sys.argv:
        launch.__file__ = str(Path(__file__).with_name("deaf_launch.py"))
    try:
        asyncio.run(hold(Path(sys.argv[1])))
    except EmbeddedServersError as error:
        report(f"refused {error}")
        sys.exit(1)
