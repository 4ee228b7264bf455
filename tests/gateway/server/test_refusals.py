"""Every refusal, through a whole gateway: status, code, envelope, additional fields, Retry-After."""

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.holds.model import Exhausted, QuotaExceeded
from billing.money import parse_usd
from billing.plans import Plan
from billing.principals import Limit
from billing.quotas import Metric, Quota, Window
from gateway.config.settings import ModelConfig, Settings
from gateway.dialects.body import MOST_QUOTED
from gateway.server import limit_refusals, refusals
from gateway.server.limit_refusals import Links
from tests.gateway.conftest import Customer, Gateway, chat
from tests.support.answering import BOUND_S, Gate, answer, saying
from tests.support.gateways import INPUT, OUTPUT, ask, asking, counted, early_in_a_minute, fetch, refusal, spent_nano
from tests.support.refusals import principal

pytestmark = pytest.mark.slow

PAY_URL = "http://127.0.0.1:8080/console/credit"


def unpriced(settings: Settings) -> Settings:
    """Settings with a model that has no price."""
    return replace(settings, models={**settings.models, "unpriced": ModelConfig("unpriced", "openai", "gpt-unpriced")})


async def test_checks_run_in_the_order_of_the_contract(make_gateway, upstream):
    gate = Gate(saying(answer()))
    gateway = await make_gateway(await upstream(gate.serve), change=unpriced)
    customer = await gateway.customer("0.01", max_parallel_requests=1)
    # A running request holds most of the balance and the only place.
    dear = chat(model="gpt-4o-mini", max_completion_tokens=10_000)
    running = asking(customer, dear)
    await gate.reached()
    dear = {**dear, "n": 2}  # more than the whole balance
    await gateway.admin(
        "PATCH",
        f"/keys/{customer.key_id}",
        {
            "scopes": "billing:read",
            "models": ["nothing"],
            "quotas": [{"window": "total", "metric": "requests", "limit": 0}],
        },
    )
    await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})

    async def key(**fields):
        await gateway.admin("PATCH", f"/keys/{customer.key_id}", fields)

    large = b'{"model": ' + b" " * gateway.runtime.settings.proxy_max_body_bytes
    wrong_key = {"Authorization": "Bearer sk-wrong"}
    refusal(await fetch(customer.post(data=large, headers=wrong_key)), 401, "invalid_api_key")
    refusal(await fetch(customer.post(data=large)), 413, "request_too_large")
    refusal(await fetch(customer.post(data=b'{"model": "neither"')), 400, "invalid_request_error")
    refusal(await ask(customer, chat(model="neither")), 404, "model_not_found")
    refusal(await ask(customer, chat(model="unpriced")), 403, "insufficient_scope")
    await key(scopes="llm:proxy")
    refusal(await ask(customer, chat(model="unpriced")), 403, "model_not_allowed")
    await key(models=None)
    refusal(await ask(customer, chat(model="unpriced")), 400, "model_not_priced")
    refusal(await ask(customer, {**dear, "model": "gpt-4", "service_tier": "priority"}), 400, "model_not_priced")
    refusal(await ask(customer, dear), 402, "billing_required")
    await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "active"})
    refusal(await ask(customer, dear), 402, "billing_required")
    cheap = chat(model="gpt-4o-mini", max_completion_tokens=16)
    refusal(await ask(customer, cheap), 429, "quota_exceeded")
    await key(quotas=[])
    refusal(await ask(customer, cheap), 429, "concurrency_exceeded")
    gate.opened.set()
    assert (await running).status == 200
    assert (await ask(customer, cheap)).status == 200
    assert gate.came == 2


async def test_no_wrong_revoked_or_expired_key_is_let_in(gateway_of):
    gateway = await gateway_of(failed_attempts=1000)
    customer = await gateway.customer()
    other = await gateway.customer(expires_at=(datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert (await ask(other, chat())).status == 200
    await gateway.admin("PATCH", f"/keys/{other.key_id}", {"expires_at": "2025-01-01T00:00:00Z"})
    revoked = await gateway.customer()
    await gateway.admin("DELETE", f"/keys/{revoked.key_id}", status=204)
    shown = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer sk-else"},
        {"Authorization": f"Basic {customer.key}"},
        {"Authorization": f"Bearer {customer.key[:-1]}"},
        {"Authorization": f"Bearer {customer.key[:-6]}AAAAAA"},
        {"Authorization": f"Bearer {other.key}"},
        {"Authorization": f"Bearer {revoked.key}"},
        {"x-api-key": revoked.key},
        {"x-goog-api-key": "\xe9" * 41},
    ]
    for headers in shown:
        for path in ("/v1/chat/completions", "/v1/models", "/v1/models/demo", "/v1/key", "/v1/generations/x"):
            method = "POST" if path.endswith("completions") else "GET"
            fetched = await fetch(gateway.session.request(method, gateway.url + path, json=chat(), headers=headers))
            if "x-goog-api-key" in headers and path.startswith("/v1/models"):  # Google has them, too
                assert fetched.json["error"]["status"] == "UNAUTHENTICATED"
                continue
            error = refusal(fetched, 401, "invalid_api_key")
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith("Incorrect API key provided")  # as OpenAI's does
            assert "`Authorization: Bearer mg_...`" in error["message"]
            assert fetched.headers["x-should-retry"] == "false"
            assert "Retry-After" not in fetched.headers
    for name in ("x-api-key", "x-goog-api-key"):
        headers = {name: customer.key}
        url = gateway.url + "/v1/chat/completions"
        assert (await fetch(gateway.session.post(url, json=chat(), headers=headers))).status == 200


async def test_scopes_and_models_are_refused_by_name(gateway):
    customer = await gateway.customer(scopes=["billing:read"], models=["demo-e*"])
    fetched = await ask(customer, chat())
    error = refusal(fetched, 403, "insufficient_scope")
    assert error["required_scope"] == "llm:proxy"
    assert fetched.headers["x-should-retry"] == "false"
    await gateway.admin("PATCH", f"/keys/{customer.key_id}", {"scopes": None})
    fetched = await ask(customer, chat())
    error = refusal(fetched, 403, "model_not_allowed")
    assert error["param"] == "model"
    assert fetched.headers["x-should-retry"] == "false"
    embedding = {"model": "demo-embedding", "input": "Word."}
    assert (await ask(customer, embedding, path="/v1/embeddings")).status == 200


async def test_an_uncovered_hold_says_what_it_needs(gateway):
    customer = await gateway.customer("0.00001", account={"credit_limit_usd": "0.000002"})
    body = json.dumps(chat(max_completion_tokens=1000)).encode()
    fetched = await fetch(customer.post(data=body))
    error = refusal(fetched, 402, "billing_required")
    assert error["billing"] == {
        "status": "active",
        "balance_usd": "0.00001",
        "required_usd": f"{(counted(body) * INPUT + 1000 * OUTPUT) / 1e9:.9f}".rstrip("0"),
        "setup_url": PAY_URL,
        "next": "metergate billing setup",
    }
    assert error["message"].startswith(f"The balance does not cover this request: buy credit at {PAY_URL} ")
    assert fetched.headers["x-metergate-balance-usd"] == "0.00001"
    assert fetched.headers["x-should-retry"] == "false"
    assert "Retry-After" not in fetched.headers
    assert await spent_nano(customer, "0.00001") == 0


async def test_an_account_that_may_not_spend(make_gateway, subtests):
    gateway = await make_gateway(change=lambda settings: replace(settings, payment_grace_days=0))
    for status in ("suspended", "closed", "past_due"):
        with subtests.test(status):
            await check_may_not_spend(gateway, status)


async def check_may_not_spend(gateway: Gateway, status: str) -> None:
    for used_before in (False, True):
        customer = await gateway.customer("5.00")
        if used_before:
            assert (await ask(customer, chat())).status == 200
        await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": status})
        fetched = await ask(customer, chat())
        error = refusal(fetched, 402, "billing_required")
        billing = error["billing"]
        assert billing["status"] == status
        pays = (PAY_URL, "metergate billing setup") if status == "past_due" else (None, None)
        assert (billing["setup_url"], billing["next"]) == pays  # no payment makes another account active again
        if status == "past_due":
            assert error["message"] == f"A payment of this account has failed: pay what is open at {PAY_URL}."
        else:
            assert (
                error["message"] == f"The account is {status}: ask whoever runs this gateway to make it active again."
            )
        assert fetched.headers["x-should-retry"] == "false"
        if used_before:
            assert parse_usd("4.99") < parse_usd(billing["balance_usd"]) <= parse_usd("5.00")
        assert parse_usd(billing["required_usd"]) > 0
        await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "active"})
        assert (await ask(customer, chat())).status == 200


async def test_a_past_due_account_spends_within_its_grace(gateway):
    customer = await gateway.customer()
    await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "past_due"})
    assert (await ask(customer, chat())).status == 200


async def test_an_exhausted_window_says_when_it_resets(gateway, subtests):
    for window in Window:
        with subtests.test(window.name):
            await check_resets(gateway, window.name)


async def check_resets(gateway: Gateway, window: str) -> None:
    customer = await gateway.customer(quotas=[{"window": window, "metric": "requests", "limit": 1}])
    if window == "minute":
        await early_in_a_minute()
    assert (await ask(customer, chat())).status == 200
    before = datetime.now(UTC)
    fetched = await ask(customer, chat())
    error = refusal(fetched, 429, "quota_exceeded")
    waits = "Retry-After" in fetched.headers
    assert error["type"] == ("rate_limit_error" if waits else "insufficient_quota")
    quota = error["quota"]
    resets_at = quota.pop("resets_at")
    assert quota == {
        "subject": "key",
        "window": window,
        "metric": "requests",
        "limit": 1,
        "used": 1,
        "requested": 1,
        "remaining": 0,
    }
    span = {"total": "in total", "hour": "an hour"}.get(window, f"a {window}")
    assert error["message"].startswith(f"The key's quota of 1 request {span} is exhausted")
    assert error["upgrade"] is None  # there is nothing above enterprise
    wait = fetched.headers.get("Retry-After")
    assert ("x-should-retry" in fetched.headers) == (wait is None or int(wait) > 60)
    if window == "total":
        assert resets_at is None
        assert wait is None
        return
    if window != "minute":
        assert wait is None or int(wait) <= 60
        return
    assert wait is not None
    left_s = (datetime.strptime(resets_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) - before).total_seconds()
    assert int(wait) - left_s + BOUND_S >= 0  # taken a moment later
    assert 1 <= int(wait) <= left_s + 1


async def test_cost_and_tokens_are_told_in_their_units(gateway):
    body = json.dumps(chat(max_completion_tokens=100)).encode()
    for metric, limit, requested in (
        ("cost", "0.00005", (counted(body) * INPUT + 100 * OUTPUT) / 1e9),
        ("tokens", 50, counted(body) + 100),
        ("input_tokens", 5, counted(body)),
        ("output_tokens", 99, 100),
    ):
        customer = await gateway.customer(account={"quotas": [{"window": "week", "metric": metric, "limit": limit}]})
        quota = refusal(await fetch(customer.post(data=body)), 429, "quota_exceeded")["quota"]
        assert (quota["subject"], quota["metric"], quota["limit"]) == ("account", metric, limit)
        if metric == "cost":
            assert quota["used"] == "0.00"
            assert quota["remaining"] == "0.00005"
            assert parse_usd(quota["requested"]) == round(requested * 1e9)
        else:
            assert (quota["used"], quota["remaining"], quota["requested"]) == (0, limit, requested)
        assert await spent_nano(customer) == 0


MANY = "word " * 40
LARGER = (
    ("/v1/chat/completions", "max_tokens", chat(MANY, max_tokens=5_000)),
    ("/v1/chat/completions", "max_completion_tokens", chat(MANY, max_completion_tokens=5_000)),
    ("/v1/responses", "max_output_tokens", {"model": "demo", "input": MANY, "max_output_tokens": 5_000}),
    (
        "/v1/messages",
        "max_tokens",
        {"model": "demo", "messages": [{"role": "user", "content": MANY}], "max_tokens": 5_000},
    ),
)


async def test_a_request_larger_than_a_whole_limit_is_final(gateway, subtests):
    for path, field, body in LARGER:
        for metric, limit, shown in (("tokens", 1_000, "1,000 tokens"), ("cost", "0.001", "0.001 USD")):
            with subtests.test(path, field=field, metric=metric):
                quotas = [{"window": "minute", "metric": metric, "limit": limit}]
                await check_larger(await gateway.customer(quotas=quotas), path, field, body, shown)


async def check_larger(customer: Customer, path: str, field: str, body: dict[str, Any], shown: str) -> None:
    fetched = await ask(customer, body, path=path)
    error = fetched.json["error"]
    assert (fetched.status, error["code"]) == (429, "quota_exceeded")
    assert fetched.headers["x-should-retry"] == "false"
    assert "Retry-After" not in fetched.headers
    said = re.fullmatch(
        rf"The key's limit is {re.escape(shown)} a minute, and this request may use [0-9.,]+(?: USD)?: lower {field} "
        rf"to ([0-9,]+) or less, or ask for a higher limit. The key's owner can raise it at (\S+).",
        error["message"],
    )
    assert said is not None, error["message"]
    assert said[2] == f"http://127.0.0.1:8080/console/keys/{customer.key_id}"
    most = int(said[1].replace(",", ""))
    assert (await ask(customer, {**body, field: most + 9}, path=path)).status == 429
    assert (await ask(customer, {**body, field: most}, path=path)).status == 200


async def test_an_input_larger_than_a_whole_limit_says_so(gateway):
    customer = await gateway.customer(quotas=[{"window": "minute", "metric": "input_tokens", "limit": 20}])
    fetched = await ask(customer, chat("word " * 100, max_tokens=5))
    message = refusal(fetched, 429, "quota_exceeded")["message"]
    assert "its input alone is too large, so shorten it, or ask for a higher limit." in message
    assert "Retry-After" not in fetched.headers


async def test_of_several_exhausted_windows_the_last_to_reset_is_named(gateway):
    await early_in_a_minute(30)
    quotas = [{"window": name, "metric": "requests", "limit": 1} for name in ("total", "minute", "month", "day")]
    for named in ("total", "month", "day", "minute"):
        customer = await gateway.customer(quotas=quotas)
        assert (await ask(customer, chat())).status == 200
        fetched = await ask(customer, chat())
        assert refusal(fetched, 429, "quota_exceeded")["quota"]["window"] == named
        assert ("Retry-After" in fetched.headers) == (named == "minute")
        quotas = [quota for quota in quotas if quota["window"] != named]


async def test_a_plan_that_is_exhausted_names_the_next(gateway):
    customer = await gateway.customer(account={"plan": "free"})
    error = refusal(await ask(customer, chat("word " * 100_000, max_completion_tokens=128_000)), 429, "quota_exceeded")
    assert (error["quota"]["subject"], error["quota"]["window"]) == ("plan", "day")
    assert error["upgrade"].pop("url").endswith("/pay/plans/starter")
    assert error["upgrade"] == {"plan": "starter", "name": "Starter", "price_usd": "99.00"}


async def test_refusals_lead_to_the_operator_s_own_page(make_gateway):
    page = "https://pay.example.com"
    gateway = await make_gateway(change=lambda settings: replace(settings, frontend_url=page))
    poor = await gateway.customer("0")
    error = refusal(await ask(poor, chat()), 402, "billing_required")
    assert (error["billing"]["setup_url"], error["billing"]["next"]) == (page, "metergate billing setup")
    assert f"buy credit at {page}" in error["message"]
    free = await gateway.customer(account={"plan": "free"})
    error = refusal(await ask(free, chat("word " * 100_000, max_completion_tokens=128_000)), 429, "quota_exceeded")
    assert error["upgrade"]["url"] == page
    assert error["message"].endswith(f"The plan Starter has more: {page}.")


async def test_too_many_at_once(make_gateway, upstream):
    gate = Gate(saying(answer()))
    plan = Plan("narrow", "Narrow", 0, max_parallel_requests=2)
    gateway = await make_gateway(
        await upstream(gate.serve), change=lambda settings: replace(settings, plans={**settings.plans, "narrow": plan})
    )
    await check_at_once(await gateway.customer(max_parallel_requests=2), gate, "key")
    gate.opened.clear()
    await check_at_once(await gateway.customer(account={"plan": "narrow"}), gate, "plan")


async def check_at_once(customer: Customer, gate: Gate, subject: str) -> None:
    came = gate.came
    running = [asking(customer) for _ in range(2)]
    await gate.reached(came + 2)
    fetched = await ask(customer)
    assert subject in refusal(fetched, 429, "concurrency_exceeded")["message"]
    assert fetched.headers["Retry-After"] == "1"
    assert "x-should-retry" not in fetched.headers
    gate.opened.set()
    assert [(await answered).status for answered in running] == [200, 200]
    assert (await ask(customer)).status == 200


async def test_models_that_are_not_there_or_not_priced(customer_of):
    customer = await customer_of(saying(answer()), change=unpriced)
    for model in ("gpt-none", "openai/", "/gpt-4o", "none/gpt-4o", "anthropic/claude-opus-4", "x" * 200, "é" * 150):
        fetched = await ask(customer, chat(model=model))
        assert refusal(fetched, 404, "model_not_found")["param"] == "model", model
        assert fetched.headers["x-should-retry"] == "false"
    for model in ("unpriced", "openai/gpt-9"):
        fetched = await ask(customer, chat(model=model))
        assert refusal(fetched, 400, "model_not_priced")["param"] == "model", model
        assert fetched.headers["x-should-retry"] == "false"


async def test_paths_and_methods_that_do_not_exist(gateway):
    for path in ("/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v2/models", "/v1/%00%0d%0a", "/v1/../secret"):
        fetched = await fetch(gateway.session.get(gateway.url + path))
        refusal(fetched, 404, "not_found")
        assert fetched.headers["x-should-retry"] == "false"
    for method, path, allowed in (
        ("GET", "/v1/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/key", "GET, HEAD"),
    ):
        fetched = await fetch(gateway.session.request(method, gateway.url + path))
        message = refusal(fetched, 405, "method_not_allowed")["message"]
        assert message == f"{method} is not allowed on {path}; allowed: {allowed}."
        assert fetched.headers["Allow"] == allowed


async def test_a_base_url_that_is_wrong_by_its_v1_is_told(gateway, subtests):
    for method, path, meant in (
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1//chat/completions/", "/v1/chat/completions"),
        ("GET", "/models/gpt-4o", "/v1/models/gpt-4o"),
        ("POST", "/v1/chat/completions/", "/v1/chat/completions"),
    ):
        with subtests.test(path):
            fetched = await fetch(gateway.session.request(method, gateway.url + path, json=chat()))
            message = refusal(fetched, 404, "not_found")["message"]
            assert f"There is nothing at {path}. Did you mean {meant}?" in message
            assert "base URL ends with /v1, once" in message


async def test_a_path_that_is_nowhere_near_another_names_the_documentation(gateway):
    for path in ("/chat", "/v1/v1", "/v1/nothing", "/%00/completions", "/", "/%ff", "/v1/v1/%0d%0a"):
        message = refusal(await fetch(gateway.session.get(gateway.url + path)), 404, "not_found")["message"]
        assert message.endswith("GET /docs/reference lists the endpoints."), path


async def test_a_full_backlog_is_a_moment_s_refusal(customer_of):
    gate = Gate(saying(answer()))
    customer = await customer_of(gate.serve, max_unsettled=1)
    running = asking(customer)
    await gate.reached()
    fetched = await ask(customer)
    assert refusal(fetched, 503, "temporarily_unavailable")["type"] == "server_error"
    assert int(fetched.headers["Retry-After"]) > 0
    assert "x-should-retry" not in fetched.headers
    gate.opened.set()
    assert (await running).status == 200


async def test_a_silent_redis_admits_nothing(make_gateway):
    gateway = await make_gateway(redis_timeout_ms=2_000, admission_wait_ms=2_000)
    customer = await gateway.customer()
    assert (await ask(customer, chat())).status == 200
    spent = await spent_nano(customer)
    await gateway.runtime.redis_client.command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        fetched = await ask(customer, chat())
    finally:
        await gateway.runtime.redis_client.command("CLIENT", "UNPAUSE")
    refusal(fetched, 503, "temporarily_unavailable")
    assert int(fetched.headers["Retry-After"]) > 0
    assert (await ask(customer, chat())).status == 200
    assert await spent_nano(customer) == 2 * spent


SUNDAY_MS = int(datetime(2025, 6, 15, 23, 59, 30, tzinfo=UTC).timestamp() * 1000)


def exceeded(*windows: Window, at_ms: int = SUNDAY_MS) -> refusals.Refusal:
    plan = Plan("p", "P", 0)
    exhausted = tuple(Exhausted(Limit("key", Quota(window, Metric.requests, 1)), 1, 0, 1) for window in windows)
    return limit_refusals.quota_exceeded(QuotaExceeded(exhausted, at_ms), principal(plan), Links("http://front", {}))


def test_windows_that_reset_at_once_are_told_apart_by_their_length():
    refused = exceeded(Window.minute, Window.day, Window.week, Window.hour)
    assert refused.extra["quota"]["window"] == "week"  # type: ignore[index]
    assert refused.retry_after_s == 30
    assert "x-should-retry" not in refused.response({}).headers


def test_a_refusal_of_more_than_a_minute_is_not_to_be_retried():
    assert "x-should-retry" not in exceeded(Window.day, at_ms=SUNDAY_MS - 30_000).response({}).headers
    assert exceeded(Window.day, at_ms=SUNDAY_MS - 31_000).response({}).headers["x-should-retry"] == "false"


def test_a_filtered_quota_names_its_model():
    quota = Quota(Window.total, Metric.cost, 10**14 + 1, model="gpt-*")
    refused = limit_refusals.quota_exceeded(
        QuotaExceeded((Exhausted(Limit("plan", quota), 10**14, 0, 2),), SUNDAY_MS),
        principal(Plan("p", "P", 0, upgrade_to="gone")),
        Links("http://front", {}),
    )
    assert refused.extra["quota"] == {
        "subject": "plan",
        "window": "total",
        "metric": "cost",
        "limit": "100000.000000001",
        "used": "100000.00",
        "requested": "0.000000002",
        "remaining": "0.000000001",
        "resets_at": None,
        "model": "gpt-*",
    }
    assert refused.extra["upgrade"] is None


async def test_a_client_that_sends_all_of_a_body_before_it_reads_sees_that_it_is_too_large(
    gateway_of,
):
    """40 MiB, far above what is read of a refused body without a key."""
    gateway = await gateway_of(linger_s=30.0, body_bytes_per_s=1 << 30)
    customer = await gateway.customer()
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    size = 40 << 20
    lines = f"Host: {host}\r\nAuthorization: Bearer {customer.key}\r\nContent-Length: {size}"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n\r\n".encode())
    for _ in range(size >> 20):
        writer.write(b" " * (1 << 20))
        await writer.drain()
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.01)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize(
    "made",
    [
        refusals.model_not_found,
        refusals.model_not_allowed,
        refusals.object_not_found,
        lambda sent: refusals.model_not_served(sent, "openai", ["anthropic"]),
        lambda sent: refusals.stored_elsewhere(sent, "openai"),
    ],
)
def test_what_a_client_sent_stays_within_the_backticks_that_quote_it(made):
    message, plain = made("a` https://evil.example `b").message, made("a").message
    assert "`a' https://evil.example 'b`" in message
    assert message.count("`") == plain.count("`")
    assert len(made("x" * 1_000).message) < len(plain) + MOST_QUOTED
