"""An S3 that somebody else has written (moto), with a bucket."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator

import aiohttp

from tests.support.commands import WAIT_S
from tests.support.ports import free_port
from tests.support.programs import judge

BUCKET = "s3://backups"


async def _make_bucket(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.put(url) as answer:
        assert answer.status == 200


def serving_bucket() -> Iterator[dict[str, str]]:
    """Serve it; gives the variables by which clients find it. Skips where moto can't be had."""
    program, port = judge("moto_server"), free_port()
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        give_up_s = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < give_up_s
                assert process.poll() is None
                time.sleep(0.05)
        asyncio.run(_make_bucket(f"http://127.0.0.1:{port}/backups"))
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key-of-a-test",
            "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.wait()
