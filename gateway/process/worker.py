"""One worker process: serves on a socket that its supervisor opened.

    python -m gateway.process.worker --fd N --ready-fd M [--hand-fds N M]
    python -m gateway.process.worker --adopt-fds N M --ready-fd M

The second one is the process of pages, which serves what workers give away (`gateway.process.pages`). Reads the
environment like every command; DATABASE_URL and REDIS_URL must be set. On SIGTERM it stops accepting, finishes running
answers within `shutdown_grace_s`, writes the debits that wait, and ends with 0.
"""

import gc

gc.disable()  # until it serves: what is imported stays, and looking at it again and again takes a tenth of the start

import argparse
import asyncio
import ctypes
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import uvloop

from billing.errors import StoreError
from billing.logs import write_json
from billing.web.render import compile_templates
from gateway.app import serving
from gateway.config.settings import ConfigError, Settings, load_settings
from gateway.endpoints.metrics_access import inherited_listener, metrics_served
from gateway.metrics.registry import METRICS_DIR_VARIABLE, Metrics
from gateway.process.pages import Hand, adopting, yield_to_workers
from gateway.process.supervisor import (
    EMBEDDED_VARIABLE,
    GATEWAY_ID_VARIABLE,
    SUPERVISOR_PID_VARIABLE,
    die_with_parent,
    stop_signals,
)
from gateway.runtime.wiring import open_runtime
from gateway.server.aiohttp_private import UnknownAiohttp, check_edge
from gateway.server.edge import EdgeRunner, EdgeServer
from gateway.server.listening import raise_file_limit
from gateway.server.plain import PlainRunner

logger = logging.getLogger(__name__)

KEEPALIVE_S: Final = 75.0
# The first two bound how many objects are looked at in one go, some milliseconds for these: thousands of new
# connections have hundreds of thousands. Each is looked at twice, whatever the second is.
GC_THRESHOLDS: Final = (10_000, 1, 2_000)
LARGE_BLOCK_BYTES: Final = 1 << 20
# How long a thread runs on when another one waits, five times shorter than Python's default: the one that waits is the
# event loop, as a rule, while a large body is parsed.
SWITCH_S: Final = 0.001

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_MMAP_THRESHOLD: Final = -3


async def serve(settings: Settings, passed: argparse.Namespace) -> None:
    """Serve on the descriptors that `passed` names until one of `stop_signals`. Raises `StoreError` when it can't
    start."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    assert settings.database_url is not None and settings.redis_url is not None  # noqa: S101, PT018  (checked by main)
    folder = os.environ.get(METRICS_DIR_VARIABLE)
    metrics = Metrics(Path(folder) if folder else None, is_worker=not passed.adopt_fds)
    async with (
        open_runtime(
            settings,
            database_url=settings.database_url.reveal(),
            redis_url=settings.redis_url.reveal(),
            embedded=os.environ.get(EMBEDDED_VARIABLE) == "1",
            gateway_id=os.environ.get(GATEWAY_ID_VARIABLE),
        ) as runtime,
        serving(runtime, metrics, shared_work=not passed.adopt_fds) as (served, health),
        metrics_served(metrics, None if passed.adopt_fds else inherited_listener(os.environ)),
    ):
        runner = served.runner(
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            handle_signals=False,
            shutdown_timeout=settings.defaults.process.shutdown_grace_s,
            **({"hand": Hand(*passed.hand_fds)} if passed.hand_fds else {}),
        )
        await runner.setup()
        _settle_garbage_collector()
        async with _accepting(runner, passed, settings.defaults.process.pages_idle_s, stopping.set):
            if passed.ready_fd is not None:
                os.write(passed.ready_fd, b"1")
                os.close(passed.ready_fd)
            await stopping.wait()
            health.ready = False
        await runner.cleanup()  # waits shutdown_grace_s for running answers, then closes what is left


@asynccontextmanager
async def _accepting(
    runner: EdgeRunner | PlainRunner, passed: argparse.Namespace, idle_s: float, end: Callable[[], None]
) -> AsyncIterator[None]:
    """Take connections: of the listening socket, or those that workers give away, until none has come for `idle_s`."""
    if passed.adopt_fds:
        server = runner.server
        assert isinstance(server, EdgeServer)  # noqa: S101  (checked by main)
        await compile_templates()  # half a second, and where workers are busy much longer: else the first look waits
        async with adopting(passed.adopt_fds, server, idle_s, end):
            yield
        return
    listener = socket.socket(fileno=passed.fd)
    listener.setblocking(False)
    site = runner.site(listener)
    await site.start()
    try:
        yield
    finally:
        await site.stop()


def _settle_garbage_collector() -> None:
    """Collect seldom, and never look again at what a worker is made of.

    A request leaves few cycles behind, but allocates enough to trigger a collection for every few of them: by default
    that is a tenth of the worker's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


def _settle_memory_and_threads() -> None:
    """Have large blocks, which are bodies, mapped each for itself: they grow without a copy, and go back to the system
    when they are freed. glibc stops doing so after the first of them, and a heap that was full of them stays large.
    Other C libraries are left as they are."""
    sys.setswitchinterval(SWITCH_S)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def main() -> int:
    """Return the process's entry; 0 after a signal, 1 when it could not serve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    accepts = parser.add_mutually_exclusive_group(required=True)
    accepts.add_argument("--fd", type=int, help="the listening socket")
    accepts.add_argument("--adopt-fds", type=int, nargs=2, help="pages: where connections come from, and the state")
    parser.add_argument("--hand-fds", type=int, nargs=2, help="where pages are given away, and the state")
    parser.add_argument("--ready-fd", type=int, help="a pipe that is told when this worker serves")
    arguments = parser.parse_args()
    if arguments.adopt_fds:
        yield_to_workers()
    if SUPERVISOR_PID_VARIABLE in os.environ:
        die_with_parent(int(os.environ[SUPERVISOR_PID_VARIABLE]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = load_settings(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if settings.log_format == "json":
        write_json()
    if settings.database_url is None or settings.redis_url is None:
        print("DATABASE_URL and REDIS_URL must be set; `metergate up` sets them by itself.", file=sys.stderr)
        return 1
    if settings.defaults.edge.edge != "guarded" or not settings.defaults.process.pages_idle_s:  # since the others began
        arguments.hand_fds = None
        if arguments.adopt_fds:
            print("Pages have a process of their own with `edge: guarded` and `pages_idle_s` alone.", file=sys.stderr)
            return 1
    try:
        check_edge(settings.defaults.edge.edge)
    except UnknownAiohttp as error:
        print(error, file=sys.stderr)
        return 1
    _settle_memory_and_threads()
    raise_file_limit()
    try:
        uvloop.run(serve(settings, arguments))
    except (StoreError, TimeoutError) as error:
        logger.error("can't serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
