"""The headers in which clients of other vendors send their key, at every door; and that no provider sees one."""

import pytest
from aiohttp import web

from billing.keys.secrets import new_secret
from tests.gateway.conftest import Gateway, chat
from tests.support.edge_clients import until

DOORS = [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/key"), ("GET", "/api/account/balance")]
OTHER = new_secret(lambda signs: signs[0])


def ways(key: str) -> list[dict[str, str]]:
    """Every header in which a key may come."""
    return [{"Authorization": f"Bearer {key}"}, {"x-api-key": key}, {"X-Goog-Api-Key": key}, {"api-key": key}]


async def asked(gateway: Gateway, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """The answer's status, and its error."""
    body = chat() if method == "POST" else None
    async with gateway.session.request(method, gateway.url + path, json=body, headers=headers) as answer:
        return answer.status, (await answer.json()).get("error", {})


@pytest.mark.parametrize(("method", "path"), DOORS)
async def test_a_key_is_taken_in_every_vendor_s_header_and_two_that_differ_are_refused(gateway, method, path):
    customer = await gateway.customer()
    right, wrong = ways(customer.key), ways(OTHER)
    # Only the list of models is Google's as well as OpenAI's, whose code is the status there.
    refused_as = {True: 401 if path == "/v1/models" else "invalid_api_key", False: "invalid_api_key"}
    for headers in (*right, {name: value for each in right for name, value in each.items()}):
        assert (await asked(gateway, method, path, headers))[0] == 200
    for one, headers in enumerate(right):
        for two, others in enumerate(wrong):
            if one != two:
                both = {**headers, **others}
                status, error = await asked(gateway, method, path, both)
                assert (status, error["code"]) == (401, refused_as["X-Goog-Api-Key" in both])
                assert "differ" in error["message"]
                assert customer.key not in str(error)
    # A key in a query is for Gemini's own paths, of which the list of models is one.
    expected = 200 if path == "/v1/models" else 401
    assert (await asked(gateway, method, f"{path}?key={customer.key}", {}))[0] == expected


async def test_no_provider_sees_a_client_s_key(customer_of):
    seen: list[web.BaseRequest] = []

    async def provider(request):
        seen.append(request)
        return web.json_response({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})

    customer = await customer_of(provider)
    for headers in ways(customer.key):
        path = f"/v1/chat/completions?key={customer.key}"
        async with customer.post(path, body=chat(model="gpt-4o-mini"), headers=headers) as answer:
            assert answer.status == 200
    await until(lambda: len(seen) == len(ways("")))
    for request in seen:
        assert customer.key not in f"{request.rel_url} {request.raw_headers}"
        assert request.headers["Authorization"] == "Bearer sk-upstream"
