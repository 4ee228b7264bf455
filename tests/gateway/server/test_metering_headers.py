"""Headers that a metered answer carries, whole and streamed."""

from dataclasses import replace

import pytest

from billing.money import parse_usd
from billing.plans import Plan
from gateway.server.ids import duration
from tests.gateway.conftest import Customer, chat
from tests.support.answering import DONE, SSE, WORDS, Provider, answer, saying, streaming, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ULID_TEXT, Fetched, ask, spent_nano

MINUTE_QUOTAS = [
    {"window": "minute", "metric": "requests", "limit": 40},
    {"window": "minute", "metric": "tokens", "limit": 90_000},
    {"window": "minute", "metric": "tokens", "limit": 80_000, "model": "gpt-4o*"},
    {"window": "minute", "metric": "cost", "limit": "1.00"},
    {"window": "hour", "metric": "requests", "limit": 30},
]
NAMES = [
    f"x-ratelimit-{what}-{metric}" for what in ("limit", "remaining", "reset") for metric in ("requests", "tokens")
]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (12, "12ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (1001, "1.001s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (90_050, "1m30.05s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(milliseconds, text):
    assert duration(milliseconds).decode() == text


def seconds(text: str) -> float:
    """Return the seconds in a duration of the gateway's."""
    if text.endswith("ms"):
        return float(text[:-2]) / 1000
    minutes, _, rest = text.rpartition("m")
    return float(minutes or 0) * 60 + float(rest[:-1])


async def both(customer: Customer, provider: Provider) -> list[Fetched]:
    """The same answer, whole and as a stream, of 10 and 5 tokens."""
    provider.reply = saying(answer())
    whole = await ask(customer, chat(model="gpt-4o-mini", max_tokens=100))
    provider.reply = streaming(*WORDS, usage_chunk(), DONE)
    return [whole, await ask(customer, chat(model="gpt-4o-mini", max_tokens=100, stream=True))]


async def test_answers_and_streams_say_what_is_left(gateway_of):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve)
    customer = await gateway.customer("5.00", quotas=MINUTE_QUOTAS)
    whole, stream = await both(customer, provider)
    cost = 10 * INPUT + 5 * OUTPUT
    assert parse_usd(whole.headers["x-metergate-cost-usd"]) == cost
    assert parse_usd(whole.headers["x-metergate-balance-usd"]) == parse_usd("5.00") - cost
    assert "x-metergate-cost-usd" not in stream.headers  # not known when the head goes out
    before = parse_usd(stream.headers["x-metergate-balance-usd"])  # a stream's is that before the request
    assert before == parse_usd("5.00") - cost
    for number, fetched in enumerate((whole, stream)):
        assert ULID_TEXT.fullmatch(fetched.headers["x-request-id"])
        assert fetched.headers["x-ratelimit-limit-requests"] == "40"
        assert fetched.headers["x-ratelimit-limit-tokens"] == "80000"
        assert 0 < seconds(fetched.headers["x-ratelimit-reset-tokens"]) <= 60
        assert fetched.headers["x-ratelimit-reset-tokens"] == fetched.headers["x-ratelimit-reset-requests"]
        assert fetched.headers["x-ratelimit-remaining-requests"] in (str(39 - number), "39")  # or a new minute
        assert 79_000 < int(fetched.headers["x-ratelimit-remaining-tokens"]) < 79_990
    assert await spent_nano(customer) == 2 * cost


async def test_ids_of_others_are_kept_and_identify_nothing(customer_of):
    """A client's id is kept, a provider's is answered and kept; a debit is known by our own alone."""
    provider = Provider(saying(b""))
    customer = await customer_of(provider.serve)
    other = await ask(customer)  # an id that is a request's own is no other's either
    mine = {"X-Request-Id": other.headers["x-request-id"]}
    answers = []
    for reply, stream in (
        (saying(answer(), x_request_id="req_1"), False),
        (saying(answer(), x_request_id="req_1"), False),
        (streaming(*WORDS, usage_chunk(), DONE, headers={**SSE, "request-id": "req_1"}), True),
        (saying({"error": {}}, 429, x_request_id="req_1"), False),
        (saying({"error": {}}, 401, x_request_id="req_1"), False),
        (saying(b"<html>", x_request_id="req_1"), False),
    ):
        provider.reply = reply
        answers.append(await ask(customer, chat(model="gpt-4o-mini", stream=stream), headers=mine))
    assert [each.status for each in answers] == [200, 200, 200, 429, 502, 502]
    assert {each.headers["x-upstream-request-id"] for each in answers} == {"req_1"}
    own = [each.headers["x-request-id"] for each in (other, *answers)]
    assert len(set(own)) == len(own)
    assert not any("x-request-id" in sent.headers for sent in provider.sent)
    events = {each["id"]: each for each in await customer.events()}
    assert list(events) == own[1:4]
    for each in events.values():
        assert (each["client_request_id"], each["upstream_request_id"]) == (own[0], "req_1")


async def test_a_provider_s_own_limits_are_not_the_customer_s(gateway_of):
    theirs = {name.replace("-", "_"): "1" for name in NAMES}
    gateway = await gateway_of(saying(answer(), x_metergate_balance_usd="1.00", **theirs))
    customer = await gateway.customer(account={"credit_limit_usd": "3.00"})
    fetched = await ask(customer)
    assert fetched.headers["x-ratelimit-limit-requests"] == "30000"  # the plan's
    assert fetched.headers["x-metergate-balance-usd"] == (await customer.balance())["balance_usd"]
    assert parse_usd(fetched.headers["x-metergate-balance-usd"]) < parse_usd("5.00")


async def test_without_minute_windows_there_are_no_limits_to_show(make_gateway, upstream):
    provider = Provider(saying(b""))
    bare = Plan("bare", "Bare", 0)
    gateway = await make_gateway(
        await upstream(provider.serve),
        change=lambda settings: replace(settings, plans={**settings.plans, "bare": bare}),
    )
    quotas = [{"window": "day", "metric": "requests", "limit": 5}, {"window": "minute", "metric": "cost", "limit": "1"}]
    customer = await gateway.customer(account={"plan": "bare"}, quotas=quotas)
    for fetched in await both(customer, provider):
        assert not [name for name in fetched.headers if name.lower().startswith("x-ratelimit-")]


async def test_every_answer_has_an_id(customer_of):
    customer = await customer_of(saying(answer()))
    first = await ask(customer, headers={"X-Request-Id": "mine"})
    seen = {first.headers["x-request-id"]}
    for path in ("/v1/models", "/v1/models/demo", "/v1/key", "/v1/generations/none", "/nothing"):
        async with customer.get(path) as response:
            seen.add(response.headers["x-request-id"])
    assert len(seen) == 6
    assert all(ULID_TEXT.fullmatch(identity) for identity in seen)
