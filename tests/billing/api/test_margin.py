"""Margins: exact by every name, what is apart shown apart, and the same as JSON, as CSV and as other reports say."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from billing.cli.margin import margin as command
from billing.cli.margin import reconcile
from billing.cli.tables import Table
from billing.client.client import Client
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import NAMED
from billing.ledger.sums import roll, total
from billing.money import format_usd
from billing.provider_bills.bills import BillAccount, Bills, fetch
from billing.provider_bills.lines import Tolerance
from billing.usage import Usage
from tests.billing.api.support import ADMIN_KEY, serving
from tests.billing.support import PRICES

USAGE = Usage(input_tokens=1000, output_tokens=100)
COST = 210_000
USD = 1_000_000_000
EVER = {"since": "2001-01-01", "until": "2199-12-31"}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def test_margins(services, billing):
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-09-01', 3)")
    first, second = [(await billing.accounts.create(name)).id for name in ("Acme", "Bolt")]

    async def work(account_id, days, charged_nano, model="fast", **fields):
        at = NOW - timedelta(days=days)
        await billing.debit(
            account_id,
            "key_1",
            USAGE,
            admitted_at=at,
            charged_nano=charged_nano,
            model=model,
            **fields,
        )

    await work(first, 60, USD)
    await work(first, 20, 2 * COST)
    await work(first, 1, 3 * COST, "slow", estimated=True)
    await work(second, 1, 0)
    await work(second, 1, 7, price_id=NAMED, cost_nano=0, provider="service")
    await work(second, 0, 0, outcome="expired", input_tokens=0, output_tokens=0, cost_nano=0)
    await roll(billing.database)
    await work(first, 0, 2 * COST)  # fresh
    await billing.grants.refund(first, 1000, "again")

    async with serving(replace(services, clock=NOW.timestamp), billing) as api:

        async def read(**query):
            found = (
                await api.admin("GET", "/margin", params={"since": "2001-01-01", "until": "2199-12-31", **query})
            ).json
            assert found["next_cursor"] is None
            groups = {each.pop("group"): each for each in found["data"]}
            for name in ("events", "estimated_events", "unpriced_events", "voided_events"):
                assert sum(each[name] for each in groups.values()) == found["total"][name]
            return {**groups, "total": found["total"]}

        by_account = await read()
        assert by_account[first] == {
            **{"events": 4, "cost_usd": "0.00084", "charge_usd": "1.00147", "charged_usd": "1.00147"},
            **{"margin_usd": "1.00063"},
            **{"margin_percent": "99.91", "estimated_events": 1, "estimated_cost_usd": "0.00021"},
            **{"estimated_charge_usd": "0.00063", "estimated_charged_usd": "0.00063", "unpriced_events": 0},
            **{"unpriced_charge_usd": "0.00", "unpriced_charged_usd": "0.00"},
            **{"voided_events": 0, "returned_usd": "0.000001", "net_usd": "1.000629"},
        }
        assert by_account[second] == {
            **{"events": 2, "cost_usd": "0.00021", "charge_usd": "0.000000007", "charged_usd": "0.000000007"},
            **{"margin_usd": "-0.000209993"},
            **{"margin_percent": "-2999900.00", "estimated_events": 0, "estimated_cost_usd": "0.00"},
            **{"estimated_charge_usd": "0.00", "estimated_charged_usd": "0.00", "unpriced_events": 1},
            **{"unpriced_charge_usd": "0.000000007", "unpriced_charged_usd": "0.000000007"},
            **{"voided_events": 1, "returned_usd": "0.00", "net_usd": "-0.000209993"},
        }
        models = await read(by="model")
        assert {name: each["charged_usd"] for name, each in models.items()} == {
            **{"fast": "1.000840007", "slow": "0.00063", "total": "1.001470007"},
        }
        assert (models["fast"]["returned_usd"], models["total"]["returned_usd"]) == (None, "0.000001")
        assert set(await read(by="provider")) == {"openai", "service", "total"}
        days = await read(by="day", since="2026-09-01", until="2026-11-22")
        assert list(days) == ["2026-09-22", "2026-11-01", "2026-11-20", "2026-11-21", "total"]
        assert days["2026-11-21"]["voided_events"] == 1
        whole = await read(since="2026-11-01")
        assert whole["total"]["events"] == 5
        bounds = NOW.replace(year=2025, hour=0), NOW.replace(day=1, hour=0), NOW.replace(year=2028, hour=0)
        spans = [(await billing.reports.sums.spans(each, bounds))[1] for each in (first, second)]
        charged_nano = sum(total(span).charged_nano for span in spans)
        assert whole["total"]["charged_usd"] == format_usd(charged_nano)

        headers = {"X-Admin-Key": ADMIN_KEY, "Accept": "text/csv"}
        query = {"by": "model", **EVER}
        async with api.client.get("/api/admin/margin", headers=headers, params=query) as answer:
            lines = list(csv.DictReader(io.StringIO(await answer.text(), newline="")))
        assert {line.pop("model"): line["charged_usd"] for line in lines} == {"fast": "1.000840007", "slow": "0.00063"}
        async with Client(str(api.client.make_url("")), admin_key=ADMIN_KEY) as client:
            shown = await command(client, by="model", as_csv=True, **EVER)
            (text,) = shown.parts
            assert isinstance(text, str)
            own = list(csv.DictReader(io.StringIO(text, newline="")))
            assert [{name: value for name, value in each.items() if name != "model"} for each in own] == lines
        for since, until in (("2026-02-30", "2027-01-01"), ("2026-03-01", "2026-02-01")):
            asked = await api.admin("GET", "/margin", params={"since": since, "until": until})
            asked.refused(400, "invalid_request_error", "since")


async def test_an_invoice_beside_the_ledger(services, billing, tmp_path):
    await sync_prices(billing.database, PRICES)
    await billing.database.execute("SELECT create_usage_months('2026-11-01', 1)")
    account_id = (await billing.accounts.create("Acme")).id
    for model in ("gpt-4o-mini", "gpt-4o"):
        at = NOW - timedelta(days=1)
        await billing.debit(account_id, "key_1", USAGE, admitted_at=at, provider="azure", provider_model=model)
    accounts = {"azure": BillAccount(("azure",), tolerance=Tolerance(0, 0)), "unasked": BillAccount(("unasked",))}
    bills = Bills(billing.database, accounts, fetch, NOW.timestamp)
    invoice = "When,model,amount_usd\n2026-11-20,gpt-4o-mini,0.00021\n2026-11-20,gpt-4o,0.00022\n2026-11-19,fee,1\n"
    async with serving(replace(services, clock=NOW.timestamp, bills=bills), billing) as api:
        url, file = "/providers/azure/bill", tmp_path / "invoice.csv"
        body = {"since": "2026-11-15", "invoice": invoice}
        (await api.admin("POST", url, body)).refused(400, "invalid_request_error", "columns")
        found = await api.admin("POST", url, {**body, "columns": {"day": "When"}})
        assert found.status == 200
        bill = found.json
        assert (bill["source"], bill["until"], bill["difference_usd"]) == ("invoice", "2026-11-21", "1.00001")
        assert {name: (each["lines"], each["bill"]["usd"]) for name, each in bill["categories"].items()} == {
            **{"matched": (1, "0.00021"), "missing_here": (1, "1.00")},
            **{"missing_there": (0, "0.00"), "priced_differently": (1, "0.00022")},
        }
        assert bill["total"]["bill"]["usd"] == "1.00043"
        assert [row["category"] for row in bill["data"]] == ["missing_here", "priced_differently", "matched"]
        kept = await api.admin("GET", url, params={"since": "2026-11-15", "source": "invoice"})
        assert kept.json == bill
        week = (await api.admin("GET", url, params={"source": "invoice"})).json
        assert (week["since"], week["total"]) == ("2026-11-14", bill["total"])
        nothing = (await api.admin("GET", url, params={"since": "2026-11-15"})).json
        assert nothing["categories"]["missing_there"]["lines"] == 2
        for since in ("2026-11-21", "2026-01-01"):
            (await api.admin("GET", url, params={"since": since})).refused(400, "invalid_request_error", "since")
        for provider in ("nobody", "unasked"):
            asked = await api.admin("POST", f"/providers/{provider}/bill", {"since": "2026-11-15"})
            asked.refused(404, "not_found")
        file.write_text(invoice)
        async with Client(str(api.client.make_url("")), admin_key=ADMIN_KEY) as client:
            shown = await reconcile(client, provider="azure", since="2026-11-15", file=file, column=["day=When"])
            again = await reconcile(client, provider="azure", since="2026-11-15", file=file, kept=True)
        assert (shown.data, again.parts) == (bill, shown.parts)
        differing = shown.parts[2]
        assert isinstance(differing, Table)
        assert differing.rows[0] == ("2026-11-19", "fee", "missing here", "0.00", "1.00", "1.00", "-")
