"""What each caller is told of the provider's cost: every operation of the API and of what the gateway answers by
itself, in JSON and CSV, for an account with a markup of 25 %."""

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from msgspec import structs

from billing.ledger.catalogue import sync_prices
from billing.ledger.explanations import explain
from billing.money import format_usd, parse_usd
from billing.permissions import SCOPES
from billing.pricing import FACTOR_SCALE, PriceTable
from gateway.config.settings import Settings
from tests.gateway.conftest import ADMIN_KEY, Customer, Gateway, MakeGateway, chat
from tests.support.gateways import Fetched, ask, fetch
from tests.support.metering_service import SERVICE_KEY, Service, with_meters

Json = dict[str, Any]
MARKUP = 25
CALLERS = ("key", "person", "service", "admin")
CUSTOMERS = ("key", "person")
# Fields and columns that tell of the provider's cost.
FORBIDDEN = frozenset({"cost_usd", "markup_percent", "price_id", "price_ids", "estimated_cost_usd"})
# Answers whose `cost_usd` is the charge, whoever asks: the name is that of another product.
NAMED_COST = re.compile(r"/api/billing/(usage|keys/\{key_id\}/usage)")
# Operations by which a caller could end what the others are.
ENDS_CALLERS = re.compile(r"/auth/|/orgs/\{org_id\}$")
DESCRIPTIONS = ("/api/openapi.json", "/api/docs", "/docs")
IN_PATH = re.compile(r"\{(\w+)[^}]*\}")
# What is sent to operations that change something and are not refused; others are sent an empty object.
BODIES = {
    "POST /api/billing/keys": {"name": "another"},
    "PATCH /api/billing/keys/{key_id}": {"name": "changed"},
    "POST /api/billing/budgets": {"amount_usd": "7", "subject": "account"},
    "PUT /api/billing/alerts": {"low_balance_usd": "1"},
    "POST /api/webhooks/endpoints": {"url": "https://hooks.example.com/"},
    "POST /api/service/check": {"account_id": "{account_id}", "meter": "container.second", "quantity": 1},
    "POST /api/service/debits": {
        **{"account_id": "{account_id}", "meter": "container.second", "quantity": 1, "event_id": "another"}
    },
}


def with_markup(settings: Settings) -> Settings:
    plan = replace(settings.plans["enterprise"], markup_scaled=MARKUP * FACTOR_SCALE)
    return replace(with_meters(settings), plans={**settings.plans, "enterprise": plan})


@dataclass(frozen=True)
class World:
    """A gateway with a customer who has used something, what each caller shows, and what must not be told."""

    gateway: Gateway
    customer: Customer
    headers: dict[str, dict[str, str]]
    ids: dict[str, str]
    operations: dict[tuple[str, str], Json]
    secrets: frozenset[str]
    events: list[Any]


async def used(gateway: Gateway, customer: Customer) -> list[Any]:
    """Usage of several kinds, in the ledger: whole, streamed, by a service, and repriced."""
    first = await ask(customer, chat("a b c d e f g h", user="someone"))
    await ask(customer, chat("a", stream=True))
    service = Service(gateway)
    measured = {"account_id": customer.account_id, "meter": "container.second", "quantity": 7, "event_id": "one"}
    await service.post("/debits", measured, 201)
    await gateway.flush()
    database, reports = gateway.runtime.database, gateway.runtime.reports
    events = list((await reports.usage_events(customer.account_id, 50)).items)
    assert len(events) == 3
    (request_id,) = [each.request_id for each in events if each.request_id == first.headers["x-request-id"]]
    row = next(each for each in gateway.runtime.settings.prices.rows if (each.provider, each.model) == ("local", "*"))
    dearer = replace(row, per_million={name: rate * 3 for name, rate in row.per_million.items()})
    await sync_prices(database, PriceTable([dearer]))
    asked = {"provider": "local", "model": "demo", "since": "2020-01-01", "until": "2199-01-01", "dry_run": False}
    done = await gateway.admin("POST", "/reprice", {**asked, "price_id": dearer.id, "reason": "the list was wrong"})
    assert request_id in {each["id"] for each in done["data"] if each["transfer_id"]}
    return events


@asynccontextmanager
async def world_of(make_gateway: MakeGateway, sees: str) -> AsyncIterator[World]:
    gateway = await make_gateway(change=with_markup, failed_attempts=1_000_000, customers_see=sees)
    customer = await gateway.customer(scopes=sorted(SCOPES), tags={"team": "a"})
    events = await used(gateway, customer)
    token = await gateway.person(customer.account_id)
    headers = {
        "key": {"Authorization": f"Bearer {customer.key}"},
        "person": {"Authorization": f"Bearer {token}"},
        "service": {"X-API-Key": SERVICE_KEY, "X-Service-Name": "aura"},
        "admin": {"X-Admin-Key": ADMIN_KEY},
    }
    paths = (await fetch(gateway.session.get(f"{gateway.url}/api/openapi.json"))).json["paths"]
    operations = {
        (method.upper(), path): {**each, "parameters": each.get("parameters", [])}
        for path, methods in paths.items()
        for method, each in methods.items()
    }
    costs_nano = [each.cost_nano for each in events] + [sum(each.cost_nano for each in events)]
    assert all(each.charged_nano > each.cost_nano > 0 for each in events)
    prices = await gateway.runtime.database.rows("SELECT id FROM prices")
    secrets = {format_usd(nano) for nano in costs_nano} | {str(nano) for nano in costs_nano}
    secrets |= {row["id"] for row in prices}
    ids = await ids_of(gateway, customer, events)
    yield World(gateway, customer, headers, ids, operations, frozenset(secrets), events)


async def ids_of(gateway: Gateway, customer: Customer, events: list[Any]) -> dict[str, str]:
    """What stands for each name in a path. A new one is to be added here."""
    event_id = events[-1].request_id
    organization = await gateway.runtime.services.organizations.of_account(customer.account_id)
    assert organization is not None
    nobody = dict.fromkeys(
        (
            "user_id",
            "order_id",
            "endpoint_id",
            "delivery_id",
            "budget_id",
            "invitation_id",
            "coupon_id",
            "token",
            "hold_id",
            "request_id",
            "parked_id",
            "session_id",
            "provider",
            "name",
            "source",
            "model",
            "plan_id",
        ),
        "nothing",
    )
    return nobody | {
        **{"account_id": customer.account_id, "key_id": customer.key_id, "event_id": event_id, "id": event_id},
        "org_id": organization.id,
    }


def cells(fetched: Fetched) -> Iterator[tuple[str, object]]:
    """Every field of an answer, wherever it stands, and every column of a table, with its name."""
    if fetched.headers.get("Content-Type", "").startswith("text/csv"):
        rows = csv.DictReader(io.StringIO(fetched.body.decode(), newline=""))
        yield from ((name, "") for name in rows.fieldnames or ())
        for row in rows:
            yield from row.items()
    elif fetched.headers.get("Content-Type", "").startswith("application/json") and fetched.body:
        yield from fields(json.loads(fetched.body), "")
    else:
        yield "", fetched.body.decode(errors="replace")


def fields(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for inner, each in value.items():
            yield inner, ""
            yield from fields(each, inner)
    elif isinstance(value, list):
        for each in value:
            yield from fields(each, name)
    else:
        yield name, value


def told(fetched: Fetched, secrets: frozenset[str], allowed: frozenset[str] = frozenset()) -> set[str]:
    """What an answer tells of the provider's cost: names of fields, and values, also within a longer text."""
    found = set()
    for name, value in (*cells(fetched), *((each.lower(), text) for each, text in fetched.headers.items())):
        if name in FORBIDDEN - allowed:
            found.add(name)
        text = str(value)
        found |= {each for each in secrets if text == each or (len(each) > 20 and each in text)}
    return found


async def asked(world: World, who: str, method: str, path: str) -> AsyncIterator[Fetched]:
    """Each answer of an operation to a caller: as JSON, as CSV, and in groups, where it has them."""
    operation, session = world.operations[method, path], world.gateway.session
    url = world.gateway.url + IN_PATH.sub(lambda part: world.ids[part[1]], path)
    if "/models/{id" in path:
        url = world.gateway.url + IN_PATH.sub("demo", path)
    headers = world.headers[who]
    if method != "GET":
        body = json.dumps(BODIES.get(f"{method} {path}", {})).replace("{account_id}", world.customer.account_id)
        yield await fetch(session.request(method, url, json=json.loads(body), headers=headers))
        return
    names = {each.get("name") for each in operation["parameters"]}
    queries: list[dict[str, str]] = [{}, *([{"group_by": "model,key"}] if "group_by" in names else [])]
    media = operation["responses"].get("200", {}).get("content", {})
    for query in queries:
        for accept in media or ("application/json",):
            yield await fetch(session.get(url, params=query, headers={**headers, "Accept": accept}))


READ_FIRST = {"GET": 0, "POST": 1, "PUT": 2, "PATCH": 3, "DELETE": 4}


@pytest.mark.parametrize("sees", ["charge", "cost"])
async def test_nobody_but_who_may_is_told_the_providers_cost(make_gateway, sees):
    async with world_of(make_gateway, sees) as world:
        seen = {who: {} for who in CALLERS}
        answered = dict.fromkeys(CALLERS, 0)
        of_gateway = re.compile(r"/(api|v1/(models|key|generations|status|jobs))\b|.*/models(/\{id.*)?$")
        for method, path in sorted(world.operations, key=lambda each: (READ_FIRST[each[0]], each[1])):
            if path in DESCRIPTIONS or not of_gateway.match(path) or ENDS_CALLERS.search(path):
                continue  # pages of the same for all, and what providers answer
            for who in CALLERS:
                if method == "DELETE" or (method != "GET" and who == "admin"):
                    continue  # there is nothing to read in what is deleted; operators see all
                async for fetched in asked(world, who, method, path):
                    assert fetched.status != 500, (method, path, fetched.body)
                    answered[who] += fetched.status == 200
                    may_have = frozenset({"cost_usd"}) if NAMED_COST.fullmatch(path) else frozenset[str]()
                    if found := told(fetched, world.secrets, may_have):
                        seen[who].setdefault(f"{method} {path}", set()).update(found)
        for who in CUSTOMERS:
            assert answered[who] > 25, answered
            if sees == "charge":
                assert seen[who] == {}, who
            else:
                events = seen[who]["GET /api/account/usage/events"]
                assert {"cost_usd", "price_id"} <= events
                assert {"markup_percent", "price_id"} <= seen[who]["GET /api/account/usage/events/{event_id}"]
                assert "cost_usd" in seen[who]["GET /api/account/usage/summary"]
        assert "cost_usd" in seen["admin"]["GET /api/admin/margin"]
        assert "price_id" in seen["service"]["POST /api/service/debits"]  # a program of the operator's
        assert {name.partition(" ")[::2] for name in BODIES} <= {(method, path) for method, path in world.operations}


async def test_no_answer_for_customers_must_have_a_cost(make_gateway):
    """Also of operations that the walk above can't have answered: what tells of the cost may be left out of all."""
    gateway = await make_gateway(change=with_meters)
    api = (await fetch(gateway.session.get(f"{gateway.url}/api/openapi.json"))).json
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            schemes = {scheme for way in operation["security"] for scheme in way}
            if not schemes & {"bearer", "person"} or "adminKey" in schemes or NAMED_COST.fullmatch(path):
                continue
            required = set(required_fields(api, operation["responses"], set()))
            assert not required & FORBIDDEN, (method, path)


def required_fields(api: Json, schema: Any, seen: set[str]) -> Iterator[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from required_fields(api, each, seen)
    elif isinstance(schema, dict):
        yield from (each for each in schema.get("required", ()) if isinstance(schema.get("required"), list))
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            seen.add(name)
            yield from required_fields(api, api["components"]["schemas"][name], seen)
        for each in schema.values():
            yield from required_fields(api, each, seen)


async def test_the_lines_of_a_customer_come_to_the_charge(make_gateway):
    async with world_of(make_gateway, "charge") as world:
        for event in world.events:
            for path in ("/v1/generations", "/api/account/usage/events"):
                one = (await fetch(world.customer.get(f"{path}/{event.request_id}"))).json
                total = sum((Fraction(line["amount_usd"]) for line in one["lines"]), Fraction(0))
                assert -(-total * 10**9 // 1) == event.charged_nano == parse_usd(one["charge_usd"])
                assert one["charged_usd"] == one["charge_usd"]
                assert (one["provider"], one["provider_model"]) == (event.provider, event.provider_model)
                for line in one["lines"]:
                    price = line.get("price_usd_per_million") or line.get("price_usd")
                    per = 10**6 if "price_usd_per_million" in line else 1
                    quantity = Fraction(str(line["quantity"])) * Fraction(one["multiplier_factor"]) / per
                    assert Fraction(price) * quantity == Fraction(line["amount_usd"])
        found = await world.gateway.runtime.reports.priced_event(world.events[0].request_id)
        assert found is not None
        assert explain(*found).adds_up


async def test_models_quote_what_this_key_pays(make_gateway):
    """With the markup of its plan, or of the model where it has one of its own."""

    def change(settings):
        changed = with_markup(settings)
        own = structs.replace(settings.models["demo"], name="dear", model="demo", markup_scaled=50 * FACTOR_SCALE)
        return replace(changed, models={**changed.models, "dear": own})

    gateway = await make_gateway(change=change)
    marked_up = await gateway.customer()
    plain = await gateway.customer(account={"plan": "starter"})
    prices = {}
    for customer, name in ((plain, "demo"), (marked_up, "demo"), (plain, "dear"), (marked_up, "dear")):
        one = (await fetch(customer.get(f"/v1/models/{name}"))).json
        listed = (await fetch(customer.get("/v1/models"))).json["data"]
        assert one in listed
        assert "price_id" not in one["pricing"]
        prices[customer is marked_up, name] = Decimal(one["pricing"]["usd_per_million"]["input"])
    cost = prices[False, "demo"]
    assert prices == {
        (False, "demo"): cost,
        (True, "demo"): cost * Decimal("1.25"),
        (False, "dear"): cost * Decimal("1.5"),
        (True, "dear"): cost * Decimal("1.5"),
    }


async def test_answers_tell_the_charge_under_both_names(make_gateway):
    gateway = await make_gateway(change=with_markup)
    customer = await gateway.customer()
    fetched = await ask(customer, chat("a b c d e f g h"))
    streamed = await ask(customer, chat("a b c", stream=True), headers={"x-metergate-include-cost": "true"})
    await gateway.flush()
    second, first = (await gateway.runtime.reports.usage_events(customer.account_id, 2)).items
    assert first.charged_nano > first.cost_nano
    charge = format_usd(first.charged_nano)
    for name in ("x-metergate-charge-usd", "x-metergate-cost-usd"):
        assert fetched.headers[name] == charge
        assert name not in streamed.headers
    chunks = [json.loads(line[6:]) for line in streamed.body.splitlines() if line.startswith(b"data: {")]
    usage = next(each["usage"] for each in reversed(chunks) if each.get("usage"))
    assert usage["charge_usd"] == usage["cost_usd"] == format_usd(second.charged_nano)
