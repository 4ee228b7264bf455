"""A gateway tells what was used to other systems, by its configuration, and shows how far it is."""

import asyncio
import csv
import json
import re
import subprocess
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet

from gateway.config.exports import ExportConfig
from gateway.config.settings import Secret
from tests.gateway.conftest import chat
from tests.support.answering import BOUND_S
from tests.support.commands import CHECKOUT, Shell
from tests.support.gateways import ask
from tests.support.programs import judge
from tests.support.usage_peers import FakeLago, FakeOpenMeter


async def test_what_was_used_is_told_and_written_to_files(make_gateway, tmp_path, database_url, redis_url):
    async with FakeLago().serving() as at_lago, FakeOpenMeter().serving() as at_meter:

        def with_exports(settings):
            cloud = ExportConfig(
                name="meter",
                kind="cloudevents",
                url=f"{at_meter.url}/api/v1/events",
                key=Secret(at_meter.key),
                private_addresses=True,
            )
            folder = ExportConfig(name="files", kind="folder", path=tmp_path)
            return replace(
                settings, exports=(cloud, folder), lago_api_url=at_lago.url, lago_api_key=Secret(at_lago.key)
            )

        gateway = await make_gateway(change=with_exports)
        customer = await gateway.customer()
        assert (await ask(customer, chat())).status == 200
        async with asyncio.timeout(BOUND_S):
            while not at_lago.events or not at_meter.events:
                await asyncio.sleep(0.05)
            while (shown := await gateway.metrics()).count(b"metergate_export_lag_seconds{") < 3:
                await asyncio.sleep(0.05)
        assert b'metergate_export_parked{export="lago"} 0.0' in shown
        (event,) = await customer.events()
        (told,) = at_meter.events.values()
        assert (told["id"], told["data"]["charged_usd"]) == (event["id"], event["charged_usd"])
        assert told["source"] == f"metergate/{gateway.runtime.deployment}"
        listed = (await gateway.admin("GET", "/exports"))["data"]
        assert [(each["name"], each["kind"]) for each in listed] == [
            ("files", "folder"),
            ("lago", "lago"),
            ("meter", "cloudevents"),
        ]
        assert (await gateway.admin("GET", "/exports/parked?export=lago"))["data"] == []
        refused = await gateway.admin("POST", "/exports/retry", {"export": "lago", "item": "x"}, 404)
        assert "parked" in refused["error"]["message"]
        assert not at_lago.violations + at_meter.violations

    stores = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    run = ("export", "--since", "2026-01-01", "--json", "--to")
    shell = Shell(tmp_path)
    for format in ("csv", "parquet"):
        done = await asyncio.to_thread(shell.run, *run, str(tmp_path / "x"), "--format", format, env=stores)
        assert (done.json["events"], done.json["charged_usd"]) == (1, event["charged_usd"])
    assert written(tmp_path / "x") == [(event["id"], Decimal(event["charged_usd"]))] * 2
    assert await asyncio.to_thread(summed, tmp_path / "x") == [(event["model"], 1, Decimal(event["charged_usd"]))]
    assert await asyncio.to_thread(as_iceberg, tmp_path / "x") == [(event["model"], 1, Decimal(event["charged_usd"]))]
    wrong = await asyncio.to_thread(shell.run, *run, "x", "--format", "xml", env=stores)
    assert "csv, parquet" in wrong.failed(2)


def written(folder: Path) -> list[tuple[str, Decimal]]:
    """Requests and charges of a CSV and a Parquet file."""
    (of_csv,), (of_parquet,) = folder.glob("*/usage-*.csv"), folder.glob("*/usage-*.parquet")
    with of_csv.open(newline="") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    rows += pyarrow.parquet.read_table(of_parquet).to_pylist()
    assert rows[0].keys() == rows[1].keys()
    return [(row["request_id"], Decimal(row["charged_usd"])) for row in rows]


EXPORTS = (CHECKOUT / "docs" / "exports.md").read_text()
# The query of docs/exports.md.
SUM = """
import json, sys, duckdb
query = "SELECT model, count(*), sum(charge_usd)::text FROM read_parquet(?) GROUP BY model ORDER BY 3 DESC"
print(json.dumps(duckdb.execute(query, [sys.argv[1] + "/*/usage-*.parquet"]).fetchall()))
"""


def summed(folder: Path) -> list[tuple[str, int, Decimal]]:
    """Requests and charges by model, as DuckDB reads them; skips where it is not installed."""
    python = Path(judge("kubernetes-validate")).with_name("python")
    ran = subprocess.run([python, "-c", SUM, str(folder)], capture_output=True, check=True, timeout=BOUND_S)
    return [(model, requests, Decimal(charged)) for model, requests, charged in json.loads(ran.stdout)]


def as_iceberg(folder: Path) -> list[tuple[str, int, Decimal]]:
    """The same from the Iceberg table that docs/exports.md makes of the files, twice: what is known is not added again.
    Skips where Iceberg's library is not installed."""
    python = Path(judge("pyiceberg")).with_name("python")
    register, read = re.findall(r"^```python\n(.*?)^```$", EXPORTS, re.MULTILINE | re.DOTALL)
    register = register.replace('Path("usage")', "Path.cwd()")
    script = f"import json\n{register}{register}since = '2026-01-01T00:00:00+00:00'\n{read}"
    script += "assert recent.execute('SELECT count(*) FROM recent').fetchall() == [(1,)]\n"
    script += "assert table.scan(row_filter=\"admitted_at < '2026-01-01T00:00:00+00:00'\").to_arrow().num_rows == 0\n"
    script += "print(json.dumps(rows))"
    command = [python, "-W", "error::SyntaxWarning", "-c", script]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=BOUND_S)
    assert ran.returncode == 0, ran.stderr
    return [(model, requests, Decimal(charged)) for model, requests, charged in json.loads(ran.stdout)]
