"""Gateways, each a process of its own, on stores that are there: each says its address, and serves until their input
ends. They are forked from one that has imported everything once.

python -m tests.support.lone_gateway ADMIN_KEY KEY_PREFIX PROCESSES    with DATABASE_URL and REDIS_URL
"""

import asyncio
import os
import sys
from dataclasses import replace

from gateway.app import serving
from gateway.config.defaults import Defaults
from gateway.config.settings import Settings
from gateway.runtime.wiring import open_runtime
from tests.gateway.conftest import OF_TESTS, impatient, run
from tests.support.shipped import shipped_settings


def main(admin_key: str, key_prefix: str, processes: str) -> None:
    settings = replace(impatient(shipped_settings(admin_key)), defaults=Defaults().having(**OF_TESTS))
    settings = replace(settings, payment_provider="local")
    for _ in range(int(processes)):
        if os.fork() == 0:
            asyncio.run(serve(settings, key_prefix))
            return
    for _ in range(int(processes)):
        os.wait()


async def serve(settings: Settings, key_prefix: str) -> None:
    stores = {"database_url": os.environ["DATABASE_URL"], "redis_url": os.environ["REDIS_URL"]}
    async with (
        open_runtime(settings, **stores, embedded=True, key_prefix=key_prefix) as runtime,
        serving(runtime) as (served, _),
        run(served.runner(access_log=None, shutdown_timeout=1.0)) as url,
    ):
        sys.stdout.write(f"{url}\n")  # in one piece also where nothing is buffered: others write lines, too
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    main(*sys.argv[1:])
