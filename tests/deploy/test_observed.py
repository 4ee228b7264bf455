"""Prometheus, by the configuration that is shipped, scrapes a gateway under all kinds of load: alerts see what goes
wrong there, and each query of the dashboards finds something."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from gateway.config.environment import TraceSettings
from gateway.config.exports import ExportConfig
from gateway.config.providers import Cooldown
from gateway.config.settings import ProviderConfig, Secret, Settings
from tests.deploy.test_alerts import ALERTS, RULES
from tests.gateway.conftest import ADMIN_KEY, Customer, Gateway, chat, provider_at
from tests.support.answering import WORDS, answer, saying, streaming, usage, usage_chunk
from tests.support.commands import CHECKOUT
from tests.support.gateways import ask
from tests.support.ports import free_port
from tests.support.programs import judge
from tests.support.prometheus import Prometheus, scraping
from tools.make_dashboards import DASHBOARDS, FOLDER, text

pytestmark = pytest.mark.slow
BOUND_S = 120
# Models by what their provider does.
OPEN, FAILING, LOCKED, BUSY = "deepseek/deepseek-v3", "mistral/codestral", "xai/grok-3", "anthropic/claude-haiku-4-5"
ANSWERS = {
    "no usage": saying(answer("Good day." * 20, {})),
    "much": saying(answer(reported=usage(10, 20_000))),
    "absurd": saying(answer(reported=usage(10**9, 10**9))),
    "odd": saying(answer(reported=usage(10, 5, teleported_tokens=7))),
    "stream": streaming(*WORDS, usage_chunk(), b"data: [DONE]\n\n"),
}
# What is to be seen of it. Those with `for` are pending.
SEEN = {
    "MetergateDown",
    "MetergateErrors",
    "MetergateProviderKeyRefused",
    "MetergateProviderRefusing",
    "MetergateProviderFailing",
    "MetergateTargetOpen",
    "MetergateUsageEstimated",
    "MetergateHoldExceeded",
    "MetergateImplausibleUsage",
    "MetergateUsageAnomalies",
    "MetergateUnknownTools",
    "MetergateDebitsSetAside",
    "MetergateAccountsLocked",
    "MetergateDrift",
    "MetergateRequestLogIncomplete",
    "MetergateTracesDropped",
    "MetergateExportLate",
    "MetergatePaymentsLate",
    "MetergatePaymentsParked",
    "MetergatePaymentsUndecided",
}
# What an operator finds in the ledger on a bad day.
SPOILT = (
    "INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ('r1', '', 'a test')",
    "INSERT INTO export_parked (export, item, account_id, reason) VALUES ('files', 'r1', 'a', 'a test')",
    "INSERT INTO payments_parked (id, provider, kind, object_id, amount_cents, currency, reason) "
    "VALUES ('p1', 'local', 'payment', 'pi_1', 500, 'usd', 'a test')",
    "INSERT INTO payment_events (provider, id, number, type, livemode, body, state, created_at) "
    "VALUES ('local', 'evt_1', '1', 'payment', false, '', 'parked', now())",
    "INSERT INTO orders (id, account_id, kind, amount_cents, provider, idempotency_key, request_digest, created_at) "
    "SELECT 'o1', min(id), 'recharge', 500, 'local', 'o1', '', now() - interval '2 days' FROM accounts",
)
# Only where a gateway is lost, or money: what nobody may see of a gateway that only has bad providers.
UNSEEN = {"MetergateDebitLost", "MetergateLoopFailed", "MetergateWorkersMissing", "MetergateRefusing"}


async def provided(request: web.Request) -> web.StreamResponse:
    """Answer as the providers of these models do."""
    name = request.path.split("/")[1]
    status = {"deepseek": 500, "mistral": 500, "xai": 401, "anthropic": 429}.get(name)
    if status is not None:
        return web.json_response({"error": {"message": "no"}}, status=status)
    asked = await request.json()
    said = asked["messages"][0]["content"]
    return await ANSWERS.get(said, saying(answer()))(request)


def observed(url: str, folder: Path) -> Any:
    """Settings with these providers, an export, payments, and a request log and traces that nobody takes."""
    at = url.removesuffix("/v1")

    def change(settings: Settings) -> Settings:
        def provider(name: str, failures: int = 1000) -> ProviderConfig:
            base, cooldown = f"{at}/{name}/v1", Cooldown(failures, 600)
            return ProviderConfig(name, "openai", base, Secret("sk-upstream"), cooldown=cooldown)

        made = [*map(provider, ("openai", "mistral", "xai", "anthropic")), provider("deepseek", 1)]
        return replace(
            settings,
            providers={**settings.providers, **{each.name: each for each in made}},
            exports=(ExportConfig(name="files", kind="folder", path=folder),),
            payment_provider="local",
            request_log="/dev/full",
            traces=TraceSettings(endpoint=f"{at}/xai/v1/traces", service="metergate", ratio=1.0),
        )

    return change


async def load(customer: Customer, broke: Customer) -> None:
    """A round of everything."""
    asked = [chat(said, model="gpt-4o-mini") for said in ("hello", "no usage", "much", "absurd", "odd")]
    asked += [chat("hello", model=model) for model in (OPEN, LOCKED, *[BUSY] * 8, *[FAILING] * 20)]
    asked += [chat("stream", model="gpt-4o-mini", stream=True)]
    asked += [chat("hello", model="gpt-4o-mini", tools=[{"type": "teleport"}])]
    await asyncio.gather(ask(broke, asked[0]), *(ask(customer, body) for body in asked))


async def spoil(gateway: Gateway, customer: Customer) -> None:
    """Write what operators find, and change a balance behind everybody's back."""
    database = gateway.runtime.database
    for statement in SPOILT:
        await database.execute(statement)
    await gateway.flush()
    await database.execute("UPDATE accounts SET balance_nano = balance_nano + 7 WHERE id = $1", customer.account_id)
    headers = {"X-Admin-Key": ADMIN_KEY}
    async with gateway.session.post(f"{gateway.url}/v1/jobs/reconcile", headers=headers) as answered:
        assert answered.status == 200, await answered.text()


@asynccontextmanager
async def locked(customer: Customer) -> AsyncIterator[None]:
    """The account's row is another session's, and a debit of it waits."""
    assert (await ask(customer, chat("hello", model="gpt-4o-mini"))).status == 200
    async with customer.gateway.runtime.database.transaction() as connection:
        await connection.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", customer.account_id)
        assert (await ask(customer, chat("hello", model="gpt-4o-mini"))).status == 200
        yield


def queries() -> list[tuple[str, str]]:
    """Each query of each dashboard, with the panel that has it, as Grafana asks it."""
    variables = {"$job": "metergate", "$__rate_interval": "1m", "$__range": "10m"}
    found = []
    for name in DASHBOARDS:
        for panel in json.loads((FOLDER / f"{name}.json").read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"]
                for variable, value in variables.items():
                    query = query.replace(variable, value)
                assert "$" not in query
                found.append((f"{name}: {panel['title']}: {target['legendFormat']}", query))
    return found


def recorded() -> list[tuple[str, str]]:
    """The series that the recording rules make."""
    names = re.findall(r"record: (\S+)", RULES[0].read_text())
    assert len(names) > 10
    return [(name, name) for name in names]


async def empty(prometheus: Prometheus, asked: list[tuple[str, str]]) -> list[str]:
    """Those that find nothing yet."""
    return [name for name, query in asked if not await prometheus.query(query)]


async def test_alerts_and_dashboards_show_what_a_gateway_goes_through(on_stores, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.endpoints.jobs.HOUSEKEEPING_S", 0.2)
    async with on_stores() as make, provider_at(provided) as url:
        gateway = await make(change=observed(url, tmp_path), reconcile_interval_s=3600, postgres_pool_size=3)
        customer, broke, late = [await gateway.customer(balance) for balance in ("50.00", "0", "1.00")]
        targets = urlsplit(gateway.url).netloc, f"127.0.0.1:{free_port()}"
        async with scraping(targets, ADMIN_KEY, tmp_path) as prometheus, AsyncExitStack() as stack:
            alerts = {}
            asked = queries() + recorded()
            async with asyncio.timeout(BOUND_S):
                await load(customer, broke)
                await spoil(gateway, customer)
                await stack.enter_async_context(locked(late))
                while missing := sorted(SEEN - alerts.keys()) + await empty(prometheus, asked):
                    print(missing)  # shown where it takes too long
                    await load(customer, broke)
                    await asyncio.sleep(0.25)
                    alerts = await prometheus.alerts()
            assert not UNSEEN & alerts.keys()
            for name, alert in alerts.items():
                assert alert["labels"]["severity"] == ALERTS[name]["labels"]["severity"]
                assert alert["state"] == "pending" if "for" in ALERTS[name] else alert["state"] == "firing"
                for told in alert["annotations"].values():
                    assert told
                    assert "<no value>" not in told
            assert "xai answers 401 or 403" in alerts["MetergateProviderKeyRefused"]["annotations"]["description"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_what_its_tables_say(name):
    assert (FOLDER / f"{name}.json").read_text() == text(name)
    assert {path.stem for path in FOLDER.glob("*.json")} == DASHBOARDS.keys()


# Reads dashboards as Grafana's own types have them, and says what is left of each.
READ = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
read = [Dashboard.from_json(json.load(open(name))) for name in sys.argv[1:]]
print(JSONEncoder().encode(read))
"""


def test_grafana_knows_every_field_of_the_dashboards():
    files = [str(FOLDER / f"{name}.json") for name in DASHBOARDS]
    python = Path(judge("kubernetes-validate")).with_name("python")
    ran = subprocess.run([python, "-c", READ, *files], capture_output=True, check=True, timeout=60, cwd=CHECKOUT)
    for file, read in zip(files, json.loads(ran.stdout), strict=True):
        assert lost(json.loads(Path(file).read_text()), read) == []


def lost(given: Any, read: Any, at: str = "") -> list[str]:
    """Where something given was not read."""
    if isinstance(given, dict):
        return [where for key in given for where in lost(given[key], (read or {}).get(key), f"{at}.{key}")]
    if isinstance(given, list):
        if len(given) != len(read or ()):
            return [at]
        return [where for number, each in enumerate(given) for where in lost(each, read[number], f"{at}[{number}]")]
    return [] if given == read else [at]
