"""Attempts after one that failed: other targets, retries and fallbacks, before a byte has passed; what each costs."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from billing.pricing import PriceRow, PriceTable
from gateway.config.providers import ModelConfig, ProviderConfig, TargetConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.upstream.health import Cooldown
from tests.gateway.conftest import Customer, Handler, chat
from tests.support.answering import DONE, WORDS, Gate, Provider, answer, saying, streaming, until, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, Fetched, ask, asking, assert_free, refusal, the_event
from tests.support.ports import free_port

pytestmark = pytest.mark.slow

Change = Callable[[Settings], Settings]


def routes(models: Mapping[str, ModelConfig], *providers: ProviderConfig, dear: str | None = None) -> Change:
    """Settings with these providers and models; the model `dear` of `second` costs three times gpt-4o-mini's."""

    def change(settings: Settings) -> Settings:
        rows = list(settings.prices.rows)
        if dear is not None:
            own = next(row for row in rows if (row.provider, row.model) == ("openai", "gpt-4o-mini"))
            rates = {each: 3 * price for each, price in own.per_million.items()}
            rows.append(PriceRow("second", dear, own.effective_from, rates, {}, max_output_tokens=4_000))
        return replace(
            settings,
            providers={**settings.providers, **{each.name: each for each in providers}},
            models={**settings.models, **models},
            prices=PriceTable(rows),
        )

    return change


def with_second(url: str, **first: Any) -> Change:
    """`gpt-4o-mini` falls back to the model `other` of the provider `second`, which is three times as dear."""
    models = {
        "gpt-4o-mini": ModelConfig("gpt-4o-mini", "openai", "gpt-4o-mini", fallbacks=("other",), **first),
        "other": ModelConfig("other", "second", "other-model"),
    }
    return routes(models, ProviderConfig("second", "openai", url, Secret("sk-second")), dear="other-model")


def served(fetched: Fetched) -> tuple[str, str, str]:
    """Who answered, as the headers say."""
    headers = fetched.headers
    return headers["x-metergate-provider"], headers["x-metergate-model"], headers["x-metergate-attempts"]


async def assert_served_by_second(customer: Customer, fetched: Fetched) -> None:
    """The second one is priced, under the name that the client asked for, once."""
    assert fetched.status == 200
    assert served(fetched) == ("second", "other-model", "2")
    event = await the_event(customer, 3 * (10 * INPUT + 5 * OUTPUT))
    assert (event["model"], event["provider"], event["provider_model"]) == ("gpt-4o-mini", "second", "other-model")


@pytest.mark.parametrize("status", [None, 503])
async def test_without_fallbacks_a_failure_is_the_answer(make_gateway, upstream, status):
    first = Provider(saying({}, status or 200))
    url = f"http://127.0.0.1:{free_port()}/v1" if status is None else await upstream(first.serve)
    customer = await (await make_gateway(url)).customer("5.00")
    fetched = await ask(customer)
    if status is None:
        refusal(fetched, 502, "upstream_error")
    assert fetched.status == (502 if status is None else status)
    assert served(fetched) == ("openai", "gpt-4o-mini", "1")
    assert len(first.sent) == (0 if status is None else 1)
    await assert_free(customer)
    line = b'metergate_model_requests_total{model="gpt-4o-mini",outcome="failed",plan="enterprise"} 1.0'
    assert line in await customer.gateway.metrics()


@pytest.mark.parametrize("status", [None, 401, 403, 408, 429, 500, 503, 529])
async def test_a_fallback_serves_what_its_entry_could_not(make_gateway, upstream, status):
    second = Provider(saying(answer(model="other-model")))
    first = f"http://127.0.0.1:{free_port()}/v1" if status is None else await upstream(saying({}, status))
    gateway = await make_gateway(first, change=with_second(await upstream(second.serve)))
    customer = await gateway.customer("5.00")
    await assert_served_by_second(customer, await ask(customer))
    (sent,) = second.sent
    assert (sent.json["model"], sent.headers["Authorization"]) == ("other-model", "Bearer sk-second")
    reason = "unreachable" if status is None else str(status)
    line = f'metergate_failed_attempts_total{{provider="openai",reason="{reason}"}} 1.0'
    assert line.encode() in await gateway.metrics()


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_the_client_did_wrong_is_not_asked_elsewhere(make_gateway, upstream, status):
    second = Provider(saying(answer()))
    first = await upstream(saying({"error": {"message": "no"}}, status))
    customer = await (await make_gateway(first, change=with_second(await upstream(second.serve)))).customer("5.00")
    assert (await ask(customer)).status == status
    assert second.sent == []
    await assert_free(customer)


async def test_a_stream_falls_back_before_its_first_byte(make_gateway, upstream):
    second = await upstream(streaming(*WORDS, usage_chunk(), DONE))
    customer = await (await make_gateway(await upstream(saying({}, 500)), change=with_second(second))).customer("5.00")
    await assert_served_by_second(customer, await ask(customer, chat(model="gpt-4o-mini", stream=True)))


async def test_what_has_begun_is_not_asked_again(make_gateway, upstream):
    second = Provider(saying(answer()))
    first = await upstream(streaming(*WORDS, cut=True))
    customer = await (await make_gateway(first, change=with_second(await upstream(second.serve)))).customer("5.00")
    fetched = await ask(customer, chat(model="gpt-4o-mini", stream=True))
    assert fetched.cut
    assert second.sent == []
    (event,) = await customer.events()
    assert (event["provider"], event["estimated"]) == ("openai", True)


async def test_an_attempt_that_takes_too_long_is_ended_and_the_next_one_asked(make_gateway, upstream):
    gate = Gate(saying(answer()))
    second = await upstream(saying(answer(model="other-model")))
    first = await upstream(gate.serve)
    gateway = await make_gateway(first, change=with_second(second), attempt_timeout_s=1.5)
    customer = await gateway.customer("5.00")
    await assert_served_by_second(customer, await ask(customer))
    gate.opened.set()


async def test_a_single_attempt_that_takes_too_long_is_a_timeout(make_gateway, upstream):
    gate = Gate(saying(answer()))
    gateway = await make_gateway(await upstream(gate.serve), attempts_deadline_s=0.3)
    customer = await gateway.customer("5.00")
    refusal(await ask(customer), 504, "upstream_timeout")
    await assert_free(customer)
    gate.opened.set()


def failing(times: int, status: int = 503, **headers: str) -> Handler:
    """Fails so many times, then answers."""
    left = [times]

    async def reply(request: web.Request) -> web.StreamResponse:
        left[0] -= 1
        return await (saying({}, status, **headers) if left[0] >= 0 else saying(answer()))(request)

    return reply


async def test_a_provider_is_asked_again_after_a_wait(make_gateway, upstream):
    provider = Provider(failing(2))
    gateway = await make_gateway(await upstream(provider.serve), retries=2, retry_backoff_ms=100)
    customer = await gateway.customer("5.00")
    began_s = time.monotonic()
    fetched = await ask(customer)
    assert time.monotonic() - began_s >= 0.05 + 0.1
    assert (fetched.status, served(fetched)[2], len(provider.sent)) == (200, "3", 3)
    assert provider.sent[0].body == provider.sent[2].body
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_retries_are_bounded_and_the_last_failure_is_the_answer(make_gateway, upstream):
    provider = Provider(failing(9))
    gateway = await make_gateway(await upstream(provider.serve), retries=9, max_attempts=3, retry_backoff_ms=1)
    customer = await gateway.customer("5.00")
    fetched = await ask(customer)
    assert (fetched.status, served(fetched)[2], len(provider.sent)) == (503, "3", 3)
    await assert_free(customer)


@pytest.mark.parametrize(("asked", "attempts"), [("1", 2), ("3600", 1)])
async def test_retry_after_is_honoured_up_to_a_bound(make_gateway, upstream, asked, attempts):
    provider = Provider(failing(1, 429, Retry_After=asked))
    gateway = await make_gateway(await upstream(provider.serve), retries=2, retry_wait_s=5, retry_backoff_ms=1)
    customer = await gateway.customer("5.00")
    began_s = time.monotonic()
    fetched = await ask(customer)
    assert (fetched.status, len(provider.sent)) == (200 if attempts == 2 else 429, attempts)
    if attempts == 2:
        assert time.monotonic() - began_s >= 1


async def test_a_client_that_leaves_between_attempts_pays_nothing(make_gateway, upstream):
    provider = Provider(failing(9))
    gateway = await make_gateway(await upstream(provider.serve), retries=1, retry_backoff_ms=60_000, retry_wait_s=600)
    customer = await gateway.customer("5.00")
    asked = asking(customer)
    await until(lambda: len(provider.sent) == 1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: not gateway.runtime.engine.holds.live)
    await assert_free(customer)
    assert len(provider.sent) == 1


async def test_a_hold_covers_the_dearest_candidate(make_gateway, upstream):
    """What affords the entry alone is refused, so that the fallback can't overspend."""

    def change(settings):
        return with_second("http://127.0.0.1:9/v1")(settings)

    first = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(first.serve), change=change)
    body = chat(model="gpt-4o-mini", max_tokens=1_000)
    enough = await gateway.customer("0.0021")  # 1,000 times 3 * OUTPUT, and the input
    assert (await ask(enough, body)).status == 200
    too_little = await gateway.customer("0.0017")
    refusal(await ask(too_little, body), 402, "billing_required")
    assert len(first.sent) == 1


async def test_a_fallback_that_the_key_may_not_use_is_not_asked(make_gateway, upstream):
    second = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(saying({}, 503)), change=with_second(await upstream(second.serve)))
    customer = await gateway.customer("5.00", models=["gpt-4o-mini"])
    fetched = await ask(customer)
    assert (fetched.status, second.sent) == (503, [])


async def test_a_fallback_with_a_quota_of_its_own_is_not_asked(make_gateway, upstream):
    second = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(saying({}, 503)), change=with_second(await upstream(second.serve)))
    quota = {"window": "day", "metric": "tokens", "limit": 1_000_000, "model": "other"}
    customer = await gateway.customer("5.00", quotas=[quota])
    assert (await ask(customer)).status == 503
    assert second.sent == []


def of_targets(*urls: str, seconds: float = 30.0, failures: int = 1) -> Change:
    """The provider `openai` by these base URLs, each with a key of its own."""
    targets = tuple(TargetConfig(url, Secret(f"sk-{number}")) for number, url in enumerate(urls))
    provider = ProviderConfig(
        "openai", "openai", urls[0], Secret("sk-own"), targets=targets, cooldown=Cooldown(failures, seconds)
    )
    return routes({}, provider)


async def test_another_target_is_asked_with_its_own_key_and_one_that_fails_is_left_alone(make_gateway, upstream):
    broken, whole = Provider(failing(999)), Provider(saying(answer()))
    urls = [await upstream(broken.serve), await upstream(whole.serve)]
    gateway = await make_gateway(change=of_targets(*urls))
    customer = await gateway.customer("5.00")
    for _ in range(12):  # by weight each is the first of about half of them
        assert (await ask(customer)).status == 200
    assert len(broken.sent) <= 1
    assert len(whole.sent) == 12
    assert {each.headers["Authorization"] for each in whole.sent} == {"Bearer sk-1"}
    assert {each.headers["Authorization"] for each in broken.sent} <= {"Bearer sk-0"}


async def test_a_target_that_recovers_is_asked_again(make_gateway, upstream):
    first, second = Provider(failing(1)), Provider(saying(answer()))
    urls = [await upstream(first.serve), await upstream(second.serve)]
    gateway = await make_gateway(change=of_targets(*urls, seconds=0.1))
    customer = await gateway.customer("5.00")

    async def both_serve():
        assert (await ask(customer)).status == 200
        return len(first.sent) > 2 and len(second.sent) > 2

    await until(both_serve)


async def test_a_single_target_is_asked_whatever_its_health(make_gateway, upstream):
    provider = Provider(failing(5))
    gateway = await make_gateway(change=of_targets(await upstream(provider.serve)))
    customer = await gateway.customer("5.00")
    statuses = [(await ask(customer)).status for _ in range(6)]
    assert statuses == [503] * 5 + [200]


async def test_a_fallback_is_the_first_choice_while_its_entry_cools_down(make_gateway, upstream):
    first, second = Provider(failing(999)), Provider(saying(answer(model="other-model")))
    change = with_second(await upstream(second.serve))
    gateway = await make_gateway(await upstream(first.serve), change=change)
    customer = await gateway.customer("5.00")
    attempts = [served(await ask(customer))[2] for _ in range(5)]
    assert attempts == ["2"] * 3 + ["1"] * 2
    assert len(first.sent) == Cooldown().failures
