"""Lists as CSV: the same rows as JSON, in parts, and never a table that looks whole and is not."""

import asyncio
import csv
import io
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, ClientError, ClientPayloadError
from aiohttp.test_utils import make_mocked_request

from billing.api import usage
from billing.api.route import rows, wants_csv
from billing.database.connection import DatabaseUnavailable
from billing.ledger import reports
from billing.ledger.debits import UsageEvent
from billing.ledger.reports import EventFilter, Reports
from billing.pages import Page
from billing.usage import Usage
from tests.billing.api.support import Api, serving
from tests.billing.support import Billing

USAGE = Usage(input_tokens=10, output_tokens=2, searches=1)
EVENTS = "/api/account/usage/events"
NOW = datetime.now(UTC).replace(microsecond=0)


def asking(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", "Accept": "text/csv"}


async def lines(api: Api, secret: str, path: str = EVENTS, **params: str) -> list[dict[str, str]]:
    async with api.client.get(path, headers=asking(secret), params=params) as answer:
        assert answer.status == 200, await answer.text()
        return list(csv.DictReader(io.StringIO(await answer.text(), newline="")))


async def used(api: Api, account_id: str, key_id: str, many: int) -> list[str]:
    debit, times = api.billing.debit, [NOW + timedelta(seconds=number) for number in range(many)]
    return [await debit(account_id, key_id, USAGE, admitted_at=at, model=f"m{n}") for n, at in enumerate(times)]


async def test_events_are_those_of_the_json(api, monkeypatch):
    monkeypatch.setattr(usage, "ROWS_A_PART", 2)
    account, key = await api.customer()
    made = await used(api, account["id"], key["id"], 5)
    listed = (await api.get(key["key"], "/account/usage/events")).json["data"]
    found = await lines(api, key["key"], limit="1")  # which does not count
    assert [line["id"] for line in found] == made[::-1]
    for line, event in zip(found, listed, strict=True):
        assert list(line) == list(event)
        for name, value in event.items():
            match value:
                case None:
                    assert line[name] == ""
                case str():
                    assert line[name] == value
                case _:
                    assert json.loads(line[name]) == value


async def test_filters_hold_for_both(api):
    account, key = await api.customer()
    debit = api.billing.debit
    odd = await debit(
        account["id"],
        key["id"],
        USAGE,
        user_id="ann",
        endpoint="/v1/embeddings",
        tags='{"team": "=red", "job": ""}',
        admitted_at=NOW,
    )
    plain = await debit(account["id"], key["id"], USAGE, admitted_at=NOW - timedelta(seconds=1))
    for params, expected in (
        ({"user_id": "ann"}, [odd]),
        ({"user_id": "bob"}, []),
        ({"endpoint": "/v1/embeddings"}, [odd]),
        ({"provider": "openai"}, [odd, plain]),
        ({"provider": "other"}, []),
        ({"status": "200"}, [odd, plain]),
        ({"status": "500"}, []),
        ({"estimated": "false", "model": "fast"}, [odd, plain]),
        ({"estimated": "true"}, []),
        ({"end_user": "x"}, []),
        ({"tag": "team"}, [odd, plain]),
        ({"tag": "job"}, [odd]),
        ({"tag": "job="}, [odd]),
        ({"tag": "team==red"}, [odd]),
        ({"tag": "team=blue"}, [plain]),
        ({"tag": "none"}, []),
        ({"until": NOW.isoformat().replace("+00:00", "Z")}, [plain]),
    ):
        listed = (await api.get(key["key"], "/account/usage/events", **params)).json
        assert [event["id"] for event in listed["data"]] == expected, params
        assert [line["id"] for line in await lines(api, key["key"], **params)] == expected, params


async def test_where_few_match_pages_go_on(api, monkeypatch):
    monkeypatch.setattr(reports, "MOST_LOOKED_AT", 3)
    monkeypatch.setattr(reports, "ENOUGH_S", 0.0)
    account, key = await api.customer()
    made = await used(api, account["id"], key["id"], 10)
    for model, expected in (("m0", made[:1]), ("m7", made[7:8]), ("m9", made[9:]), ("none", [])):
        found = []
        pages = 0
        cursor = {}
        while True:
            page = (await api.get(key["key"], "/account/usage/events", model=model, limit="2", **cursor)).json
            found += [event["id"] for event in page["data"]]
            pages += 1
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert (found, pages) == (expected, 4)
        assert [line["id"] for line in await lines(api, key["key"], model=model)] == expected
    every = []
    after = None
    while True:
        found_page = await api.billing.reports.usage_events(account["id"], 2, after)
        every += [event.request_id for event in found_page.items]
        if (after := found_page.next_after) is None:
            break
    assert every == made[::-1]


async def test_transactions(api):
    account, key = await api.customer()
    body = {"amount_usd": "1", "idempotency_key": "a", "note": '=HYPERLINK("x")'}
    await api.admin("POST", f"/accounts/{account['id']}/grants", body)
    await api.billing.debit(account["id"], key["id"], USAGE)
    spent, granted = await lines(api, key["key"], "/api/account/transactions")
    assert (spent["kind"], spent["amount_usd"]) == ("usage", "-0.0100027")
    assert (granted["amount_usd"], granted["note"]) == ("1.00", '\'=HYPERLINK("x")')


class Breaking(Reports):
    """Reports whose second page fails, or is long in coming."""

    def __init__(self, billing: Billing, failure: Exception | None = None, wait_s: float = 0.0) -> None:
        super().__init__(billing.database)
        self.failure, self.wait_s = failure, wait_s

    async def usage_events(
        self, account_id: str, limit: int, after: str | None = None, only: EventFilter | None = None
    ) -> Page[UsageEvent]:
        if after is not None:
            await asyncio.sleep(self.wait_s)
            if self.failure is not None:
                raise self.failure
        return await super().usage_events(account_id, limit, after, only)


@pytest.mark.parametrize("failure", [DatabaseUnavailable("away"), ValueError("a fault"), TimeoutError()])
async def test_one_that_breaks_off_does_not_look_whole(services, billing, monkeypatch, failure):
    monkeypatch.setattr(usage, "ROWS_A_PART", 2)
    async with serving(replace(services, reports=Breaking(billing, failure)), billing) as api:
        account, key = await api.customer()
        await used(api, account["id"], key["id"], 5)
        with pytest.raises(ClientPayloadError):
            await lines(api, key["key"])


async def test_a_client_that_leaves_is_no_failure(services, billing, monkeypatch, caplog):
    monkeypatch.setattr(usage, "ROWS_A_PART", 2)
    caplog.set_level(logging.INFO)
    left = ClientConnectionResetError("Cannot write to closing transport")  # as writing a part raises it
    async with serving(replace(services, reports=Breaking(billing, left)), billing) as api:
        account, key = await api.customer()
        await used(api, account["id"], key["id"], 5)
        with pytest.raises(ClientPayloadError):
            await lines(api, key["key"])
    assert "broke off" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_one_that_fails_at_once_is_a_refusal(services, billing):
    class Away(Breaking):
        async def usage_events(self, *_: Any, **__: Any) -> Page[UsageEvent]:
            raise DatabaseUnavailable("away")

    async with serving(replace(services, reports=Away(billing)), billing) as api:
        _, key = await api.customer()
        (await api.call("GET", EVENTS, headers=asking(key["key"]))).refused(503, "temporarily_unavailable")


@pytest.mark.parametrize(("wait_s", "whole"), [(0.5, True), (5.0, False)])
async def test_the_time_limit_holds_for_each_part(services, billing, monkeypatch, wait_s, whole):
    """Three parts take longer together than one request may, or one of them alone does."""
    monkeypatch.setattr(usage, "ROWS_A_PART", 1)
    mine = replace(services, reports=Breaking(billing, wait_s=wait_s), request_timeout_s=2.0)
    async with serving(mine, billing) as api:
        account, key = await api.customer()
        await used(api, account["id"], key["id"], 5)
        if whole:
            assert len(await lines(api, key["key"])) == 5
        else:
            with pytest.raises(ClientError):
                await lines(api, key["key"])


@pytest.mark.parametrize(
    ("accept", "csv_wanted"),
    [
        ("text/csv", True),
        ("TEXT/CSV; charset=utf-8", True),
        ("text/csv, */*;q=0.1", True),
        ("text/csv;q=0.9, application/json;q=0.1", True),
        ("application/json", False),
        ("application/json, text/csv", False),
        ("text/csv;q=0.1, application/json;q=0.9", False),
        ("text/csv;q=0", False),
        ("*/*", False),
        ("", False),
        ("text/csvx", False),
        ("text/csv;q=abc", True),
    ],
)
def test_who_wants_csv(accept, csv_wanted):
    assert wants_csv(make_mocked_request("GET", "/", headers={"Accept": accept})) is csv_wanted


def test_lines_end_as_the_rfc_says():
    assert rows([["a", "b"], [1, "x,y"]]) == b'a,b\r\n1,"x,y"\r\n'
    assert rows([['say "x"', "two\nlines", {"a": 1}]]) == b'"say ""x""","two\nlines","{""a"":1}"\r\n'


def test_nothing_and_an_empty_text_differ():
    assert rows([[None, "", None], [""]]) == b',"",\r\n""\r\n'


@pytest.mark.parametrize("first", [*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20"])
def test_no_cell_is_a_formula(first):
    [[cell, number]] = csv.reader(io.StringIO(rows([[f"{first}1+1", -1]]).decode(), newline=""))
    assert (cell, number) == (f"'{first}1+1", "-1")
