"""An API of the tests' own through a whole gateway: served, metered, refused and streamed, registered by one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from billing.quotas import Metric, Quota, Window
from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.dialects import registry
from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway, chat
from tests.support.answering import PROVIDER_KEY, SSE, Provider, answer, saying, streaming
from tests.support.echo_dialect.dialect import EchoDialect
from tests.support.gateways import (
    INPUT,
    OUTPUT,
    Fetched,
    ask,
    assert_free,
    assert_tells_no_secret,
    fetch,
    spent_nano,
    the_event,
)
from tests.support.stories import OneGateway, Stories, Tell

Upstream = Callable[[Handler], Any]
stories = Stories()
SAID = b'{"text": "Say something.", "limit": 9}'
HEARD = {"words": "Good day.", "spent": {"read": 10, "written": 5}}
STREAM = (
    b'event: begin\ndata: {"spent":{"read":10,"written":1}}\n\n',
    b'event: word\ndata: {"word":"Good"}\n\n',
    b'event: word\ndata: {"word":" day."}\n\n',
    b'event: count\ndata: {"spent":{"written":5,"read":null}}\n\n',
    b'event: farewell\ndata: {"bye":true}\n\n',
)
ARRAY = (b'[{"spent":{"read":10}}\n,{"word":"Good"}\n,{"wo', b'rd":" day."}\n,{"spent":{"written":5}}\n', b"]\n")


Change = Callable[[Settings], Settings]


@cache
def speaking_echo(url: str, change: Change | None) -> Change:
    """Settings whose provider `openai` serves the API here."""
    base = f"{url.removesuffix('/v1')}/base?v=3"

    def serving_echo(settings: Settings) -> Settings:
        settings = settings if change is None else change(settings)
        own = ProviderConfig("openai", "openai", "", Secret(PROVIDER_KEY), dialects={"echo": base})
        return replace(settings, providers={**settings.providers, "openai": own})

    return serving_echo


def maker(make_gateway: MakeGateway, upstream: Upstream) -> Any:
    """Makes a gateway whose provider `openai` serves the API, and `plain` OpenAI's alone."""

    async def make(provider: Provider, change: Change | None = None) -> Gateway:
        return await make_gateway(change=speaking_echo(await upstream(provider.serve), change))

    return make


@pytest.fixture
def echo_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DIALECTS", (EchoDialect, *registry.DIALECTS))


@pytest.fixture
def make_echo(make_gateway: MakeGateway, upstream: Upstream, echo_served: None) -> Any:
    return maker(make_gateway, upstream)


async def say(
    customer: Customer, how: str = "say", body: bytes = SAID, model: str = "gpt-4o-mini", **options: Any
) -> Fetched:
    headers = {"x-echo-key": customer.key, **options.pop("headers", {})}
    url = f"{customer.gateway.url}/echo/v2/models/{model}:{how}{options.pop('query', '')}"
    return await fetch(customer.gateway.session.post(url, data=body, headers=headers, **options))


def fault(fetched: Fetched, status: int, reason: str) -> dict[str, Any]:
    """The error in the API's own envelope."""
    assert (fetched.status, list(fetched.json)) == (status, ["fault"])
    assert_tells_no_secret(fetched.body.decode() + str(fetched.headers))
    shown: dict[str, Any] = fetched.json["fault"]
    assert shown["reason"] == reason
    assert shown["request"] == fetched.headers["x-echo-request"] == fetched.headers["x-request-id"]
    return shown


@stories
@pytest.mark.parametrize("model", ["gpt-4o-mini", "openai/gpt-4o-mini", "openai%2Fgpt-4o-mini"])
async def a_request_is_served_and_metered(make_echo: Any, model: str) -> None:
    provider = Provider(saying(HEARD))
    customer = await (await make_echo(provider)).customer("5.00")
    fetched = await say(customer, model=model)
    assert (fetched.status, fetched.json) == (200, HEARD)
    (sent,) = provider.sent
    assert (sent.path, sent.query, sent.body) == ("/base/models/gpt-4o-mini:say", "v=3", SAID)
    assert sent.headers["x-echo-provider"] == PROVIDER_KEY
    assert customer.key not in str(sent.headers)
    assert "Authorization" not in sent.headers
    event = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert event["endpoint"] == "/echo/v2/models/{model}:say"
    assert (event["provider"], event["model"], event["estimated"]) == ("openai", "gpt-4o-mini", False)


@stories
async def a_key_may_stand_in_the_query(make_echo: Any) -> None:
    provider = Provider(saying(HEARD))
    customer = await (await make_echo(provider)).customer("5.00")
    query = f"?secret={customer.key}&alt=sse&limit=9&tone=kind"
    url = f"{customer.gateway.url}/echo/v2/models/gpt-4o-mini:say{query}"
    assert (await fetch(customer.gateway.session.post(url, data=SAID))).status == 200
    assert provider.sent[0].query == "v=3&alt=sse&tone=kind"
    other = await customer.gateway.customer("1.00")
    fault(await say(other, query=query), 401, "invalid_api_key")


@stories
async def refusals_are_in_the_api_s_own_envelope(make_echo: Any) -> None:
    provider = Provider(saying(HEARD))
    gateway = await make_echo(provider)
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.000000001")
    fault(await say(customer, headers={"x-echo-key": "mg_wrong"}), 401, "invalid_api_key")
    fault(await say(customer, body=b"{}"), 400, "invalid_request_error")
    fault(await say(customer, model="nothing"), 404, "model_not_found")
    fault(await say(customer, how="shout"), 404, "not_found")
    assert "billing" in fault(await say(poor), 402, "billing_required")
    async with gateway.session.get(f"{gateway.url}/echo/v2/models/gpt-4o-mini:say") as got:
        assert (got.status, list(await got.json())) == (405, ["fault"])
    assert provider.sent == []
    await assert_free(customer)


async def test_a_window_that_is_exhausted_is_refused(make_echo: Any) -> None:
    def once(settings: Settings) -> Settings:
        quota = Quota(Window.day, Metric.requests, 1)
        plans = {name: replace(plan, quotas=(quota,)) for name, plan in settings.plans.items()}
        return replace(settings, plans=plans)

    customer = await (await make_echo(Provider(saying(HEARD)), change=once)).customer("5.00")
    assert (await say(customer)).status == 200
    assert fault(await say(customer), 429, "quota_exceeded")["quota"]["limit"] == 1


@stories
@pytest.mark.parametrize("pieces", [STREAM, (b"".join(STREAM),), tuple(bytes([byte]) for byte in b"".join(STREAM))])
async def a_stream_passes_byte_for_byte(make_echo: Any, pieces: tuple[bytes, ...]) -> None:
    """Each count of its usage is the last one that was said."""
    customer = await (await make_echo(Provider(streaming(*pieces)))).customer("5.00")
    fetched = await say(customer, "stream")
    assert (fetched.status, fetched.body, fetched.cut) == (200, b"".join(STREAM), False)
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]


@stories
async def the_end_of_a_stream_waits_for_its_debit(make_echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = await (await make_echo(Provider(streaming(*STREAM)))).customer("5.00")
    holds = customer.gateway.runtime.engine.holds
    settle, ended = holds.settle, []

    def settling(*args: Any) -> Any:
        ended.append(True)
        return settle(*args)

    monkeypatch.setattr(holds, "settle", settling)
    headers = {"x-echo-key": customer.key}
    url = f"{customer.gateway.url}/echo/v2/models/gpt-4o-mini:stream"
    taken = b""
    async with customer.gateway.session.post(url, data=SAID, headers=headers) as answered:
        async for chunk in answered.content.iter_any():
            taken += chunk
            assert b"farewell" not in taken or ended
    assert taken == b"".join(STREAM)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


@stories
async def a_json_array_is_streamed(make_echo: Any) -> None:
    reply = streaming(*ARRAY, headers={"Content-Type": "application/json"})
    customer = await (await make_echo(Provider(reply))).customer("5.00")
    fetched = await say(customer, "list")
    assert (fetched.status, fetched.body, fetched.cut) == (200, b"".join(ARRAY), False)
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]


@stories
@pytest.mark.parametrize(("how", "pieces"), [("stream", STREAM[:-2]), ("list", ARRAY[:-1])])
async def a_stream_without_its_end_is_cut(make_echo: Any, how: str, pieces: tuple[bytes, ...]) -> None:
    headers = SSE if how == "stream" else {"Content-Type": "application/json"}
    customer = await (await make_echo(Provider(streaming(*pieces, headers=headers)))).customer("5.00")
    assert (await say(customer, how)).cut
    event = await the_event(customer)
    assert (event["status"], event["input_tokens"]) == (502, 10)
    assert event["output_tokens"] >= 2


@stories
async def the_cost_stands_in_the_last_usage_where_the_client_wants_it(make_echo: Any) -> None:
    customer = await (await make_echo(Provider(streaming(*STREAM)))).customer("5.00")
    fetched = await say(customer, "stream", headers={"x-metergate-include-cost": "true"})
    count = next(line for line in fetched.body.split(b"\n\n") if line.startswith(b"event: count"))
    assert json.loads(count.partition(b"data: ")[2])["spent"]["charge_usd"] == "0.0000045"
    assert fetched.body.endswith(STREAM[-1])


@stories
async def a_free_endpoint_is_forwarded_and_costs_nothing(make_echo: Any) -> None:
    provider = Provider(saying({"read": 10}))
    gateway = await make_echo(provider)
    customer = await gateway.customer("5.00")
    fetched = await say(customer, "measure", b'{"text": "Say something."}')
    assert (fetched.status, fetched.json) == (200, {"read": 10})
    assert provider.sent[0].path == "/base/models/gpt-4o-mini:measure"
    event = await the_event(customer, 0)
    assert (event["total_tokens"], event["endpoint"]) == (0, "/echo/v2/models/{model}:measure")
    fault(await say(customer, "measure", headers={"x-echo-key": ""}), 401, "invalid_api_key")


@stories
async def a_maximum_that_is_granted_stands_where_the_api_takes_it(make_echo: Any) -> None:
    provider = Provider(saying(HEARD))
    customer = await (await make_echo(provider)).customer("0.01")
    fetched = await say(customer, body=b'{"text": "Say something."}')
    granted = int(fetched.headers["x-metergate-granted-output-tokens"])
    assert provider.sent[0].json == {"text": "Say something.", "limit": granted}


@stories
async def an_answer_without_usage_is_estimated(make_echo: Any) -> None:
    customer = await (await make_echo(Provider(saying({"words": "Good day."})))).customer("5.00")
    assert (await say(customer)).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert 0 < event["output_tokens"] <= 9
    assert await spent_nano(customer) > 0


@stories
async def a_request_reaches_no_provider_that_does_not_serve_its_api(make_echo: Any) -> None:
    """The gateway's own provider speaks OpenAI's; this one, here, speaks the other alone."""
    provider = Provider(saying(answer()))
    customer = await (await make_echo(provider)).customer("5.00")
    assert "openai" in fault(await say(customer, model="demo"), 404, "model_not_found")["said"]
    refused = await ask(customer, chat(model="gpt-4o-mini"))
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert "echo" in refused.json["error"]["message"]
    assert provider.sent == []


@stories
async def the_other_api_is_served_beside_it(make_echo: Any) -> None:
    customer = await (await make_echo(Provider(saying(HEARD)))).customer("5.00")
    assert (await ask(customer, chat())).status == 200
    assert (await say(customer)).status == 200


async def test_on_one_gateway(tell: Tell, echo_served: None) -> None:
    def make(one: OneGateway) -> Any:
        return maker(one.make_gateway, one.upstream)

    await tell(stories, lambda url: {"change": speaking_echo(url, None)}, {"make_echo": make})
