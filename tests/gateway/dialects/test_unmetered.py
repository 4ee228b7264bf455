"""Paths that are refused with a reason, and those that are not."""

import pytest

from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects, why_unmetered
from tests.support.gateways import assert_free, fetch
from tests.support.tables import Tables

TABLES = Tables(__file__)


@TABLES.each("a_request_that_is_known_has_a_reason")
def test_a_request_that_is_known_has_a_reason(request_line, reason):
    assert reason in (why_unmetered(*request_line.split()) or "")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/", "", "/realtime/client_secrets", "/v1/realtimes", "/v1x/é", "/api/v1", "/v1/imagesque"]
)
def test_any_other_has_none(path):
    assert why_unmetered("GET", path) is None


def test_no_endpoint_is_among_them():
    endpoints = [endpoint for dialect in make_dialects(StructureBounds()).all for endpoint in dialect.endpoints]
    assert len(endpoints) > 20
    assert [each.path for each in endpoints if why_unmetered(each.method, each.path)] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/realtime/client_secrets"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1/models/gemini-3-pro:batchGenerateContent"),
        ("POST", "/v1/images/generations"),
        ("DELETE", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1alpha/auth_tokens"),
    ],
)
async def test_it_is_refused_with_its_reason(gateway, customer, method, path):
    headers = {"Authorization": f"Bearer {customer.key}"}
    refused = await fetch(gateway.session.request(method, gateway.url + path, headers=headers))
    assert refused.status == 404
    assert "is not served here" in refused.body.decode()
    await assert_free(customer)


async def test_another_method_of_an_endpoint_is_405_with_those_that_it_has(gateway):
    for method, path, allowed in (
        ("PUT", "/v1/chat/completions", "POST"),
        ("PATCH", "/v1/responses", "GET, POST"),
        ("GET", "/v1/responses", "GET, POST"),
        ("POST", "/v1/key", "GET, HEAD"),
        ("POST", "/api/ping", "GET, HEAD"),
    ):
        refused = await fetch(gateway.session.request(method, gateway.url + path))
        assert (refused.status, refused.headers["Allow"]) == (405, allowed), path
