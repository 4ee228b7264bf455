"""/api/openapi.json: a valid OpenAPI document of every route that is served, and of nothing else."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from billing.permissions import SCOPES
from tests.gateway.conftest import ADMIN_KEY, Gateway, chat
from tests.support.gateways import ask, fetch

Json = dict[str, Any]
IN_PATH = re.compile(r"\{(\w+)[^}]*\}")


async def described(gateway: Gateway) -> Json:
    fetched = await fetch(gateway.session.get(f"{gateway.url}/api/openapi.json"))
    assert (fetched.status, fetched.headers["Content-Type"]) == (200, "application/json")
    return dict(fetched.json)


def operations(api: Json) -> dict[tuple[str, str], Json]:
    return {
        (method.upper(), path): operation
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    }


# What answers of these are like is seen elsewhere.
OF_OTHERS = (
    "{org_id}",
    "{order_id}",
    "{endpoint_id}",
    "{token}",
    "{budget_id}",
    "{provider}",
    "{plan_id}",
    "/usage/refusals/{request_id}",
)
# Before the paths of a customer's billing: the same operations once more.
ALIAS = "/api/v1"


async def test_it_is_the_routes_that_are_served(gateway):
    served = {
        (route.method, route.resource.canonical)
        for route in gateway.app.router.routes()
        if route.resource is not None and route.resource.canonical != "/{path}" and route.method != "HEAD"
    }
    described_operations = operations(await described(gateway))
    again = {each for each in served if each[1].startswith(ALIAS)}
    assert {(method, path.replace(ALIAS, "/api", 1)) for method, path in again} <= set(described_operations)
    others = {each for each in served if each[1].startswith(("/pay", "/console", "/docs/"))}  # pages for browsers
    others |= {each for each in served if each[1].startswith("/scim/")}  # which describes itself, as SCIM has it
    others.add(("GET", "/v1/responses"))  # a WebSocket, for which OpenAPI has no words
    assert set(described_operations) == served - again - others
    assert ("POST", "/v1/chat/completions") in served
    assert ("GET", "/api/openapi.json") in served


@pytest.mark.slow
async def test_it_is_valid(gateway):
    OpenAPIV31SpecValidator(await described(gateway)).validate()


async def test_every_name_and_reference_leads_somewhere(gateway):
    api = await described(gateway)
    assert api["openapi"].startswith("3.1.")
    schemas, schemes = api["components"]["schemas"], api["components"]["securitySchemes"]
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(api)))
    assert used == set(schemas)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in schemas)
    names = [operation["operationId"] for operation in operations(api).values()]
    assert len(set(names)) == len(names)
    for (_, path), operation in operations(api).items():
        parameters = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert parameters == IN_PATH.findall(path)
        assert operation["summary"]
        assert {scheme for way in operation["security"] for scheme in way} <= set(schemes)
        assert any(status.startswith(("2", "3")) for status in operation["responses"])


async def test_who_may_call_is_said_as_it_is(gateway):
    """Without a key, exactly the endpoints that are declared to need one refuse."""
    for (method, path), operation in operations(await described(gateway)).items():
        url = gateway.url + IN_PATH.sub("x", path)
        fetched = await fetch(gateway.session.request(method, url, json={}))
        assert (fetched.status == 401) == bool(operation["security"]), (method, path)
        if operation["security"]:
            assert "401" in operation["responses"]


async def test_a_scope_is_needed_where_it_is_said(gateway):
    customer = await gateway.customer(scopes=["other:thing"])
    for (method, path), operation in operations(await described(gateway)).items():
        scope = operation.get("x-required-scope")
        nothing_there = path == "/api/billing/subscription"  # 404 comes before 403
        if method == "GET" and scope is not None and "{" not in path and not nothing_there:
            fetched = await fetch(customer.get(path))
            assert (fetched.status, fetched.json["error"].get("required_scope")) == (403, scope), (path, fetched.body)
            assert "403" in operation["responses"]


def _holds(api: Json, schema: Json, value: Any, at: str) -> None:
    """Assert that a value has the schema, as far as the schemas of answers go: what is there has its type, what is
    required is there, and nothing is there that the schema does not name."""
    if "$ref" in schema:
        schema = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = next(each for each in schema["anyOf"] if _fits(each, value))
    assert _fits(schema, value), (at, schema, value)
    if isinstance(value, list):
        for item in value:
            _holds(api, schema.get("items", {}), item, f"{at}[]")
    elif isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= set(value), at
        assert set(value) <= set(schema["properties"]), at
        for name, field in value.items():
            _holds(api, schema["properties"][name], field, f"{at}.{name}")


def _fits(schema: Json, value: Any) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    return "type" not in schema or isinstance(value, kinds[schema["type"]])


async def test_answers_are_as_they_are_described(gateway):
    api = await described(gateway)
    customer = await gateway.customer(
        quotas=[{"window": "day", "metric": "tokens", "limit": 9000}], scopes=sorted(SCOPES)
    )
    event_id = (await ask(customer, chat())).headers["x-request-id"]
    await gateway.flush()
    ids = {"account_id": customer.account_id, "key_id": customer.key_id, "event_id": event_id, "id": event_id}
    ids["user_id"] = "usr_1"
    headers = {"X-Admin-Key": ADMIN_KEY, "Authorization": f"Bearer {customer.key}"}
    of_person = {"Authorization": f"Bearer {await gateway.person(customer.account_id)}"}
    looked_at = 0
    for (method, path), operation in operations(api).items():
        content = operation["responses"].get("200", {}).get("content", {}).get("application/json")
        of_another_id = (
            "/v1/models/{id}",
            "/openai/models/{id}",
            "/openai/v1/models/{id}",
            "/v1beta/models/{id}",
            "/api/admin/refusals/{request_id}",
            "/api/admin/users/{user_id}",
            "/api/billing/subscription",  # there is none: tests/billing/api/test_plans.py
        )
        if method != "GET" or content is None or path in of_another_id:
            continue
        if "/responses/" in path or "/conversations/" in path:  # a provider's own
            continue
        if path.startswith(("/api/service/", "/api/auth/oidc/")) or any(
            each in path for each in OF_OTHERS
        ):  # tests/gateway/test_metering.py, tests/billing/api
            continue
        who = of_person if operation["security"] == [{"person": []}] else headers
        fetched = await fetch(gateway.session.get(gateway.url + path.format(**ids), headers=who))
        assert fetched.status == 200, (path, fetched.body)
        _holds(api, content["schema"], fetched.json, path)
        looked_at += 1
    assert looked_at >= 15
