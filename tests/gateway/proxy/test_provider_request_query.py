"""Query strings on their way to a provider."""

from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.keys.secrets import new_secret
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.proxy.provider_request import MAX_PARAMETERS, upstream_query
from tests.gateway.conftest import chat
from tests.support.answering import Provider, answer, saying
from tests.support.gateways import ask, head, raw

DIALECT = OpenAIDialect()
KEY = new_secret(lambda alphabet: alphabet[7])


@pytest.mark.parametrize(
    ("base", "given_", "sent"),
    [
        ("", "api-version=2024-10-21", "api-version=2024-10-21"),
        ("api-version=1", "", "api-version=1"),
        ("api-version=1", "api-version=2&b=%2F+x", "api-version=1&b=%2F+x"),
        ("api-version=1", "api%2Dversion=2", "api-version=1"),
        ("", "a=1&&a=2&flag", "a=1&a=2&flag"),
        ("key=secret", "key=theirs", "key=secret"),
        ("", "key=1&KEY=2&k%65y=3&api_key=4&x-api-key=5&access_token=6&Api-Key=7&ok=8", "ok=8"),
        ("", f"other={KEY}&{KEY}=1&x=a{KEY}b&ok=1", "ok=1"),
        ("", f"x={quote(KEY, safe='').replace('mg_', '%6dg%5f')}&y={KEY.replace('_', '%255F')}&ok=1", "ok=1"),
        ("", "model=dear&n=9&Max_Tokens=1&stream=true&ok=1", "ok=1"),
        ("", "key%00=1&%20key=2&$key=3&key[]=4&a.pi.key=5&bearer_token=6&ok=1", "ok=1"),
        ("", "maxTokens=9&max_tokens[]=9&%20n=9&$stream=1&ok=1", "ok=1"),
        ("", "fields=choices&$fields=choices&FIELDS=a&alt=sse&$alt=media&callback=f&ok=1", "ok=1"),
        ("", "a=1;api_key=2", "a=1%3Bapi_key=2"),
        ("api-version=1", "API-Version=2&%20api-version=3", "api-version=1"),
        ("", "a=\udcff\u00e9 b#fragment&c=1", "a=%FF%C3%A9%20b"),
        ("", 'a="\\\r\nX: y', "a=%22%5C%0D%0AX:%20y"),
    ],
)
def test_what_passes_of_a_query(base: str, given_: str, sent: str) -> None:
    assert upstream_query(base, given_, DIALECT) == sent


def test_no_query_has_parameters_without_number():
    """Each of them is looked into, while nobody else is served."""
    sent = upstream_query("b=1", "&".join(["a=%2B"] * 2_000), DIALECT)
    assert sent == "&".join(["b=1"] + ["a=%2B"] * MAX_PARAMETERS)


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2))
def test_no_query_carries_a_key_of_ours(before, after, encodings):
    shown = f"{before}{KEY}{after}"
    for _ in range(encodings):
        shown = quote(shown, safe="")
    sent = upstream_query("", shown, DIALECT)
    assert KEY not in sent
    assert sent.isascii()
    assert not {" ", "\r", "\n", "\0"} & set(sent)


async def test_a_query_goes_on_without_what_is_ours(make_gateway, upstream):
    provider = Provider(saying(answer()))
    base = await upstream(provider.serve)

    def versioned(settings):
        openai = replace(settings.providers["openai"], base_url=base, base_query="api-version=1")
        return replace(settings, providers={**settings.providers, "openai": openai})

    for change, always in ((None, ""), (versioned, "api-version=1")):
        gateway = await make_gateway(base, change=change)
        customer = await gateway.customer()
        path = f"/v1/chat/completions?api-version=2&tenant=a%2Fb&key={customer.key}&trace={customer.key}"
        assert (await ask(customer, path=path)).status == 200
        assert (await ask(customer)).status == 200
        assert (await ask(customer, chat(), path=path)).status == 200  # the gateway's own model has no query
        with_query, without = provider.sent
        assert with_query.path == without.path == "/v1/chat/completions"
        assert with_query.query == (f"{always or 'api-version=2'}&tenant=a/b")
        assert without.query == always
        assert customer.key not in str(provider.sent)
        provider.sent.clear()
        wild = head(customer, "Content-Length: 2", "Connection: close", path="/v1/chat/completions?\xff=%&a")
        assert (await raw(gateway, wild, b"{}")).status == 400
