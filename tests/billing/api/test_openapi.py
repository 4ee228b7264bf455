"""The OpenAPI document of routes. That it is the routes that are served: tests/gateway/endpoints/test_openapi.py."""

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from billing.api.application import ROUTES, document
from billing.api.route import Access, Route
from tests.billing.api.support import Api


async def test_the_billing_api_describes_itself(api: Api) -> None:
    """As it is in a command's own process, without the gateway's endpoints."""
    answer = await api.call("GET", "/api/openapi.json")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")
    OpenAPIV31SpecValidator(answer.json).validate()
    described = {(method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES} | {("GET", "/api/openapi.json")}


def test_a_query_string_is_described_by_its_parameters() -> None:
    api = msgspec.json.decode(document(ROUTES))
    parameters = {each["name"]: each for each in api["paths"]["/api/account/usage/events"]["get"]["parameters"]}
    filters = {"key_id", "user_id", "model", "provider", "endpoint", "status", "tag", "estimated", "end_user"}
    assert set(parameters) == {"limit", "cursor", "since", "until", *filters}
    assert parameters["limit"]["schema"]["maximum"] == 1000
    assert parameters["limit"]["schema"]["default"] == 50
    assert not any(each["required"] for each in parameters.values())
    assert "EventQuery" not in api["components"]["schemas"]


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        document([*ROUTES, ROUTES[0]])


def test_errors_follow_from_what_a_route_asks_for() -> None:
    async def look(call: object) -> None:
        """Look. And again."""

    route = Route("PUT", "/x/{id}", look, Access.key, status=204, scope="a:b", body=dict[str, str], errors=(409,))
    operation = msgspec.json.decode(document([route]))["paths"]["/x/{id}"]["put"]
    statuses = ["204", "400", "401", "403", "404", "409", "413", "429", "500", "503"]
    assert list(operation["responses"]) == statuses
    assert (operation["summary"], operation["description"]) == ("Look", "And again.")
    assert operation["security"] == [{"bearer": []}, {"x-api-key": []}, {"x-goog-api-key": []}, {"api-key": []}]
