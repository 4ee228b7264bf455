"""Collection over HTTP, end to end: exporters, jobs, status, health, balances, and who may do it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from gateway.config.environment import ExporterSource
from gateway.config.secret import Secret
from tests.gateway.conftest import ADMIN_KEY, Gateway
from tests.support.answering import until
from tests.support.exporter import TOKEN, Exporter, exporting

ADMIN = {"X-Admin-Key": ADMIN_KEY}


def source_of(name: str, exporter: Exporter, **fields: Any) -> ExporterSource:
    source = ExporterSource(
        source_id=name,
        base_url=exporter.url,
        token=Secret(TOKEN),
        region="eu",
        expected_node_id=exporter.node,
        expected_env="prod",
        timeout_s=1,
    )
    return structs.replace(source, **fields)


async def job(gateway: Gateway, name: str = "collect-and-rate", status: int = 200, **body: Any) -> dict[str, Any]:
    async with gateway.session.post(f"{gateway.url}/v1/jobs/{name}", headers=ADMIN, json=body or None) as answer:
        assert answer.status == status, await answer.text()
        return dict(await answer.json())


async def get(gateway: Gateway, path: str) -> dict[str, Any]:
    async with gateway.session.get(gateway.url + path, headers=ADMIN) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


async def test_traffic_is_collected_charged_and_told(make_gateway):
    good, bad, now = Exporter("n1"), Exporter("n2"), datetime.now(UTC)
    async with exporting(good, bad):

        def change(settings):
            return replace(
                settings,
                exporter_sources=(source_of("good", good), source_of("bad", bad)),
                collect_interval_s=86_400,
                price_per_byte_scaled=10**9,  # a nano-USD
                initial_balance_nano=5_000,
                initial_included_quota_bytes=100,
            )

        gateway = await make_gateway(change=change)
        await until(lambda: gateway.runtime.collector.last is not None)  # the first round, which finds nothing yet
        for minute in range(5):  # three pages; from 1000 the counter falls to 0
            at = now - timedelta(minutes=4 - minute)
            good.say(at, ("alice", 1000 * (minute % 4), 0), ("bob", 7, 7))
        bad.lie = lambda asked, page: b"<html>"
        report = await job(gateway)
        assert (report["status"], report["sources"], report["failed_sources"]) == ("degraded", 2, 1)
        assert (report["processed_samples"], report["written_minutes"], report["replayed_minutes"]) == (10, 10, 0)
        assert report["error"].startswith("bad: its answer is not a page of snapshots")
        assert report["job"] == "collect-and-rate"
        health = await get(gateway, "/healthz")
        assert health["status"] == "degraded"
        assert "bad: its answer" in health["message"]
        bad.lie = lambda asked, page: page
        for source in ("good", "bad"):
            assert f'metergate_collect_source_lag_seconds{{source="{source}"}}'.encode() in await gateway.metrics()
        report = await job(gateway, "reconcile")
        assert (report["job"], report["status"], report["error"]) == ("reconcile", "ok", "")
        assert report["written_minutes"] == 0
        assert report["replayed_minutes"] > 0
        assert report["drifts"] == []
        shown = await get(gateway, "/v1/status")
        assert {shown[name] for name in ("job", "status")} == {"reconcile", "ok"}
        assert (await get(gateway, "/healthz"))["status"] == "ok"
        runs = await get(gateway, "/api/admin/jobs/runs")
        assert [run["status"] for run in runs["data"]] == ["ok", "degraded", "ok"]
        subjects = (await get(gateway, "/api/admin/exporters/subjects"))["data"]
        bytes_of = {each["uuid"]: each["bytes"] for each in subjects}
        assert bytes_of == {"alice": 3000, "bob": 0}
        (alice,) = [each for each in subjects if each["uuid"] == "alice"]
        balance = await get(gateway, f"/api/admin/accounts/{alice['account_id']}")
        assert balance["balance_usd"] == "0.0000021"  # 5000 - (3000 - 100) nano-USD
        async with gateway.session.get(f"{gateway.url}/v1/jobs/collect-and-rate", headers=ADMIN) as answer:
            assert answer.status == 405
        await check_reads(gateway, alice["account_id"], now)
        move = {"subject": "bob@example.com", "account_id": alice["account_id"]}
        for assigned in (1, 0):
            url = f"{gateway.url}/api/admin/exporters/subjects/assign"
            async with gateway.session.post(url, headers=ADMIN, json=move) as answer:
                assert (answer.status, await answer.json()) == (200, {"assigned": assigned})
        bad.lie = good.lie = lambda asked, page: b"{}"
        report = await job(gateway, status=503)
        assert report["error"]["code"] == "temporarily_unavailable"
        assert (await get(gateway, "/v1/status"))["status"] == "failed"


async def check_reads(gateway: Gateway, account_id: str, now: datetime) -> None:
    """What the account has used is shown in bytes, by meter, region, node and inbound tag, and adds up."""
    headers = {"Authorization": f"Bearer {await gateway.person(account_id)}"}

    async def read(path: str) -> dict[str, Any]:
        async with gateway.session.get(f"{gateway.url}/api/account/{path}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())

    for group_by, expected in (
        ("meter", {"meter": "bytes"}),
        ("node,inbound_tag", {"node": "n1", "inbound_tag": "vless"}),
        ("region,direction", {"region": "eu", "direction": "uplink"}),
        ("model", {"model": "bytes"}),
        ("tag:region,feature", {"tag:region": "eu", "feature": "bytes"}),
    ):
        summary = await read(f"usage/summary?group_by={group_by}")
        groups = [each for each in summary["data"] if each["bytes"]]
        assert [each["group"] for each in groups] == [expected]
        assert (groups[0]["bytes"], groups[0]["charged_usd"]) == (3000, "0.0000029"), group_by
        assert (summary["total"]["bytes"], summary["total"]["charged_usd"]) == (3000, "0.0000029")
    since = (now - timedelta(minutes=10)).isoformat().replace("+00:00", "Z")
    buckets = await read(f"usage/buckets?granularity=minute&since={since}")
    assert [each["bytes"] for each in buckets["data"] if each["bytes"]] == [1000, 1000, 1000]
    assert (await read("billing/summary"))["used"]["bytes"] >= 1000  # of this month
    mixed = f"{gateway.url}/api/account/usage/summary?group_by=node,model"
    async with gateway.session.get(mixed, headers=headers) as answer:
        assert answer.status == 400
