"""Prometheus itself, which scrapes gateways and applies the rules that are shipped."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.commands import CHECKOUT
from tests.support.ports import free_port
from tests.support.programs import program

SHIPPED = CHECKOUT / "deploy" / "prometheus"
# Between scrapes, and between evaluations of rules.
INTERVAL = "250ms"
BOUND_S = 120


@dataclass(frozen=True)
class Prometheus:
    """One that runs, asked by its HTTP API."""

    url: str
    session: aiohttp.ClientSession

    async def query(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now."""
        return list((await self._get("query", query=query))["result"])

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts that are pending or fire, by their names."""
        return {alert["labels"]["alertname"]: alert for alert in (await self._get("alerts"))["alerts"]}

    async def exemplars(self, query: str) -> list[dict[str, Any]]:
        """The exemplars of the series that a query finds in the last hour."""
        now_s = time.time()
        return list(await self._get("query_exemplars", query=query, start=f"{now_s - 3600}", end=f"{now_s + 60}"))

    async def _get(self, path: str, **query: str) -> Any:
        async with self.session.get(f"{self.url}/api/v1/{path}", params=query) as answer:
            body = json.loads(await answer.read())
            assert body["status"] == "success", body
            return body["data"]


@asynccontextmanager
async def scraping(targets: Iterable[str], admin_key: str, folder: Path, *options: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus by the shipped configuration, but for what is this test's: addresses, the key, and haste."""
    configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    del configuration["alerting"]  # nobody is told
    configuration["global"] = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    configuration["rule_files"] = [str(SHIPPED / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    job["authorization"] = {"credentials": admin_key}
    job["scrape_timeout"] = job["scrape_interval"] = INTERVAL
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=subprocess.STDOUT)
    try:
        async with aiohttp.ClientSession() as session:
            made = Prometheus(f"http://127.0.0.1:{port}", session)
            await _ready(made, process, folder / "log")
            yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(made: Prometheus, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(BOUND_S):
        while True:
            assert process.returncode is None, f"it has ended: {log}"
            try:
                async with made.session.get(f"{made.url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
