"""Paths that are refused with a reason, and those that are not."""

import pytest

from gateway.dialects.registry import make_dialects, why_unmetered
from gateway.dialects.structure import StructureBounds
from tests.gateway.conftest import Gateway
from tests.support.gateways import assert_free, fetch


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v1/realtime/client_secrets", "pass this gateway by"),
        ("/v1/realtime/sessions?model=gpt-realtime", "pass this gateway by"),
        ("/v1/realtime/transcription_sessions/", "pass this gateway by"),
        ("/v1/realtime/translations/client_secrets", "pass this gateway by"),
        ("/openai/v1/realtime/client_secrets", "pass this gateway by"),
        ("/azure/openai/v1/realtime/calls", "pass this gateway by"),
        ("/v1alpha/auth_tokens", "pass this gateway by"),
        ("/v1beta/auth_tokens/one", "pass this gateway by"),
        ("/v1/chat/completions/chatcmpl-1", "all accounts here share"),
        ("/v1/chat/completions/chatcmpl-1/messages", "all accounts here share"),
        ("/v1/threads/t/runs", "bounded by nothing"),
        ("/v1/vector_stores", "by the hour"),
        ("/v1/organization/usage/completions", "operator's own account"),
    ],
)
def test_a_path_that_is_known_has_a_reason(path: str, reason: str) -> None:
    assert reason in (why_unmetered(path) or "")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/", "", "/realtime/client_secrets", "/v1/realtimes", "/v1x/é", "/api/v1"]
)
def test_any_other_has_none(path: str) -> None:
    assert why_unmetered(path) is None


def test_no_endpoint_is_among_them_but_the_list_of_chats() -> None:
    """Which is a path that is served by another method."""
    paths = {endpoint.path for dialect in make_dialects(StructureBounds()).all for endpoint in dialect.endpoints}
    named = {path for path in paths if why_unmetered(path) and not path.endswith("/chat/completions")}
    assert named == set()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/realtime/client_secrets"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("DELETE", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1alpha/auth_tokens"),
    ],
)
async def test_it_is_refused_with_its_reason(gateway: Gateway, method: str, path: str) -> None:
    customer = await gateway.customer("5.00")
    headers = {"Authorization": f"Bearer {customer.key}"}
    refused = await fetch(gateway.session.request(method, gateway.url + path, headers=headers))
    assert refused.status == 404
    assert "is not served here" in refused.body.decode()
    await assert_free(customer)
