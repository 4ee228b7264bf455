"""Which endpoint a request is sent to."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.body import StructureBounds
from gateway.dialects.declarations import Endpoint
from gateway.dialects.openai.dialect import CHAT, OpenAIDialect
from gateway.dialects.registry import Dialects, make_dialects
from tests.support.tables import Tables

TABLES = Tables(__file__)


class Shared(OpenAIDialect):
    """Has endpoints that are told apart by header, by method and by what follows a name."""

    name = "shared"
    endpoints = (
        Endpoint(CHAT, "with", header="x-shared"),
        Endpoint("/v1/models/{model}:say", "say"),
        Endpoint("/v1/models/{model}:shout", "shout"),
        Endpoint("/v1/things/{id}", "get", method="GET"),
        Endpoint("/v1/things/{id}/parts", "parts", method="GET"),
    )

    def owns(self, path: str, headers: Mapping[str, str]) -> bool:
        return path.startswith("/v1/things") or "x-shared" in headers


DIALECTS = Dialects([Shared(), OpenAIDialect()])


@TABLES.each("an_endpoint_is_found")
def test_an_endpoint_is_found(method, path, headers, found):
    match = DIALECTS.find(method, path, headers)
    assert (match and match.endpoint.operation) == found


def test_names_in_a_path_are_decoded():
    match = DIALECTS.find("POST", "/v1/models/open%20ai/gpt-4o%3Amini:say", {})
    assert match.parameters == {"model": "open ai/gpt-4o:mini"}


def test_endpoints_that_can_t_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="two dialects have POST /v1/chat/completions"):
        Dialects([OpenAIDialect(), OpenAIDialect()])


def test_errors_are_those_of_the_api_that_is_meant():
    assert DIALECTS.owner("/v1/things", {}).name == "shared"
    assert DIALECTS.owner("/v1/nothing", {"x-shared": "1"}).name == "shared"
    assert DIALECTS.owner("/v1/nothing", {}).name == "openai"


def test_routes_are_patterns_of_aiohttp_s():
    assert DIALECTS.routes() >= {
        ("POST", CHAT),
        ("GET", "/v1/things/{id:[^/:]+}"),
        ("POST", "/v1/models/{model:.+}:say"),
    }


@given(st.text(max_size=40))
def test_no_path_leads_to_two_operations_at_once(path):
    match = make_dialects(StructureBounds()).find("POST", path, {})
    assert match is None or match.endpoint.path == path.partition("?")[0]
