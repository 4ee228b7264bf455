"""What every refusal says, in the envelope of each API: what a customer can do, where, and no word for operators."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from billing.holds.model import Exhausted, QuotaExceeded
from billing.plans import Plan
from billing.principals import Limit
from billing.quotas import Metric, Quota, Window
from gateway.config.defaults import KEYS
from gateway.dialects.openai_responses import dialect as responses
from gateway.server import limit_refusals, refusals
from gateway.server.limit_refusals import Links
from gateway.server.refusals import Refusal
from tests.support.refusals import (
    AT_MS,
    CONSOLE,
    FREE,
    FRONT,
    LINKS,
    PAY,
    WHO,
    envelopes,
    every,
    of_limits,
    of_proxy,
    spent,
)

ROOT = Path(__file__).parents[3]
SETTINGS = {name for name in KEYS if "_" in name}
SAID_OF_REQUESTS = {"max_parallel_requests", "max_output_tokens", "context_window"}
FOR_OPERATORS = re.compile(
    r"\boperators?\b|metergate operator|(?:metergate|plans|prices)\.yaml|[A-Z]+_[A-Z_]+|\b(?:"
    + "|".join(sorted(SETTINGS - SAID_OF_REQUESTS))
    + r")\b"
)


def constructors(module: ModuleType) -> set[str]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {
        name
        for name, made in functions
        if made.__module__ == module.__name__
        and made.__annotations__.get("return") == "Refusal"
        and not name.startswith("_")
    }


def test_every_refusal_is_looked_at():
    links = LINKS["nowhere"]
    assert constructors(refusals) == set(of_proxy(links))
    assert constructors(limit_refusals) == set(of_limits(links))


def test_no_refusal_tells_a_customer_what_an_operator_can_do():
    for name, envelope in envelopes().items():
        for where, made, refusal in every():
            body = json.loads(envelope.error_body(refusal, "R1"))
            error = body["error"]
            assert error["message"] == refusal.message, (name, made)
            for text in texts({**error, "code": None}):
                assert FOR_OPERATORS.search(text.replace("RESOURCE_EXHAUSTED", "")) is None or text.isupper(), (
                    name,
                    where,
                    made,
                    text,
                )


def texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from texts(each)
        case list():
            for each in value:
                yield from texts(each)


def test_the_address_stands_in_the_message_of_every_refusal_that_has_one():
    for where, name, refusal in every():
        told = []
        if isinstance(billing := refusal.extra.get("billing"), dict) and refusal.status == 402:
            told.append(
                billing["setup_url"] if billing["status"] in ("active", "past_due") else LINKS[where].frontend_url
            )
        if isinstance(upgrade := refusal.extra.get("upgrade"), dict):
            told.append(upgrade["url"])
        for url in filter(None, told):
            assert url in refusal.message, (where, name, refusal.message)
    links = LINKS["sold here"]
    for subject, page in (("key", "/keys/k"), ("user", "/members"), ("plan", "")):
        message = limit_refusals.quota_exceeded(spent(subject), WHO, links).message  # type: ignore[arg-type]
        assert (f"{CONSOLE}{page}" if page else f"{PAY}/plans/starter") in message
    assert f"{CONSOLE}/keys" in refusals.invalid_key(links.keys_url).message
    assert f"{CONSOLE}/keys" in limit_refusals.no_scope("llm:proxy", WHO, links).message


def test_what_an_operator_can_do_is_kept_for_them():
    links = LINKS["sold here"]
    assert (
        limit_refusals.billing_required(WHO, links, 5, 10).hint
        == "`metergate operator grant a AMOUNT_USD` gives credit"
    )
    hint = limit_refusals.quota_exceeded(spent("key"), WHO, links).hint
    assert hint == "`metergate operator key update k --quota ...` raises it"


# What only they can cause.
RAISED_FOR_OPERATORS = {"billing/payments/orders.py", "billing/pricing.py", "billing/exports/worker.py"}
SAYS = re.compile(r"metergate operator|(?:metergate|plans|prices)\.yaml|under `?defaults`?")


def test_no_exception_that_a_customer_can_cause_names_an_operator_s_command():
    found = []
    for path in sorted((*(ROOT / "billing").rglob("*.py"), *(ROOT / "gateway").rglob("*.py"))):
        name = path.relative_to(ROOT).as_posix()
        aside = ("billing/cli", "gateway/commands", "gateway/config", "gateway/embedded", "billing/web/operator")
        if name.startswith(aside) or name in RAISED_FOR_OPERATORS:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                parts = [each.value for each in ast.walk(node.exc) if isinstance(each, ast.Constant)]
                found += [(name, part) for part in parts if isinstance(part, str) and SAYS.search(part)]
    assert [each for each in found if each[0] not in ALLOWED] == []


# Raised where the gateway starts.
ALLOWED = {"gateway/server/aiohttp_private.py", "gateway/app.py"}


def test_no_customer_s_page_names_an_operator_s_command():
    for page in sorted((ROOT / "billing" / "web" / "templates").glob("*.html")):
        if page.name.startswith(("operator", "list", "thing")):
            continue
        assert "metergate operator" not in page.read_text("utf-8"), page.name


def final(window: Window, requested: int = 5) -> Refusal:
    return limit_refusals.quota_exceeded(
        spent("plan", window, requested=requested), WHO, LINKS["sold here"], "max_tokens"
    )


def test_a_request_larger_than_a_limit_is_final_and_says_what_would_fit():
    refused = final(Window.minute, requested=11)
    headers = refused.headers("R1", envelopes()["openai"])
    assert refused.status == 429
    assert (headers["x-should-retry"], "Retry-After" in headers) == ("false", False)
    assert refused.message == (
        "The plan's limit is 10 tokens a minute, and this request may use 11: lower max_tokens to 7 or less, or ask "
        f"for a higher limit. The plan Starter has more: {PAY}/plans/starter."
    )


@pytest.mark.parametrize(
    ("metric", "limit", "requested", "fits", "field", "message"),
    [
        (
            Metric.tokens,
            1_000,
            5_085,
            0,
            "max_tokens",
            "limit is 1,000 tokens a day, and this request may use 5,085: its input alone is too large, so shorten",
        ),
        (
            Metric.cost,
            10**9,
            2 * 10**9,
            1_500,
            "max_output_tokens",
            "limit is 1.00 USD a day, and this request may use 2.00 USD: lower max_output_tokens to 1,500 or less,",
        ),
        (
            Metric.tokens,
            20,
            30,
            5,
            None,
            "limit is 20 tokens a day, and this request may use 30: its input alone is too large, so shorten",
        ),
        (Metric.requests, 0, 1, 0, "max_tokens", "quota of 0 requests a day allows nothing."),
    ],
)
def test_a_limit_that_is_too_small_is_told_in_its_unit(metric, limit, requested, fits, field, message):
    exhausted = Exhausted(Limit("key", Quota(Window.day, metric, limit)), 0, 0, requested)
    refused = QuotaExceeded((exhausted,), AT_MS, fits, fits)
    said = limit_refusals.quota_exceeded(refused, WHO, LINKS["sold here"], field).message
    assert f"The key's {message}" in said
    assert said.endswith(f"The key's owner can raise it at {CONSOLE}/keys/k.")


def test_a_limit_is_told_in_words():
    quota = Quota(Window.hour, Metric.input_tokens, 3)
    small = QuotaExceeded((Exhausted(Limit("key", quota), 0, 0, 92),), AT_MS)
    said = limit_refusals.quota_exceeded(small, WHO, LINKS["sold here"]).message
    assert said.startswith("The key's limit is 3 input tokens an hour, and this request may use 92")


def test_a_limit_that_is_too_small_is_named_before_one_that_is_used_up():
    small = Exhausted(Limit("key", Quota(Window.minute, Metric.tokens, 10)), 0, 0, 11)
    used_up = Exhausted(Limit("plan", Quota(Window.total, Metric.requests, 10)), 10, 0, 1)
    refused = limit_refusals.quota_exceeded(QuotaExceeded((used_up, small), AT_MS), WHO, LINKS["sold here"])
    assert refused.extra["quota"]["window"] == "minute"  # type: ignore[index]
    assert refused.retry_after_s is None


def test_a_plan_that_would_not_do_is_not_offered():
    wide, middle = (
        Plan("wide", "Wide", 1),
        Plan("middle", "Middle", 1, (Quota(Window.day, Metric.tokens, 50),), upgrade_to="wide"),
    )
    links = Links(FRONT, {"middle": middle, "wide": wide})
    quota = Quota(Window.day, Metric.tokens, 10)
    free = replace(FREE, upgrade_to="middle")
    for requested, plan in ((5, "middle"), (50, "middle"), (51, "wide")):
        found = links.upgrade(free, quota, requested)
        assert found is not None
        assert found["plan"] == plan
    assert links.upgrade(wide, quota, 51) is None
    assert Links(FRONT, {"free": replace(free, upgrade_to="free")}).upgrade(free, quota) is None  # a circle


def test_each_api_says_in_its_own_way_that_a_quota_is_final():
    made = envelopes()
    refused = final(Window.day)
    chat = json.loads(made["openai"].error_body(refused, "R1"))["error"]
    assert (chat["type"], chat["code"]) == ("insufficient_quota", "quota_exceeded")
    response = json.loads(made["openai_responses"].error_body(refused, "R1"))["error"]
    assert (response["type"], response["code"]) == ("usage_limit_reached", "quota_exceeded")
    assert response["resets_at"] == AT_MS // 1000 + 12 * 3600
    promo = made["openai_responses"].error_headers("R1", refused)[responses.PROMO]
    assert promo == refused.message.rstrip(".")
    details = {
        each["@type"].rpartition(".")[2]: each
        for each in json.loads(made["gemini"].error_body(refused, "R1"))["error"]["details"]
    }
    assert details["RetryInfo"]["retryDelay"] == f"{12 * 3600}s"
    [violation] = details["QuotaFailure"]["violations"]
    assert violation["description"] == refused.message
    assert (violation["quotaId"], violation["quotaMetric"]) == ("plan-tokens-day", "metergate/tokens")


def test_a_quota_of_google_s_clients_that_never_resets_has_the_word_that_stops_them():
    gemini = envelopes()["gemini"]
    for refused in (final(Window.total), final(Window.day, requested=11)):
        details = json.loads(gemini.error_body(refused, "R1"))["error"]["details"]
        [failure] = [each for each in details if each["@type"].endswith("QuotaFailure")]
        assert "PerDay" in failure["violations"][0]["quotaId"]
        assert not any(each["@type"].endswith("RetryInfo") for each in details)


def test_a_quota_that_resets_within_a_minute_is_not_final():
    soon = QuotaExceeded(spent("plan", Window.minute).exhausted, AT_MS + 30_000)
    refused = limit_refusals.quota_exceeded(soon, WHO, LINKS["sold here"])
    assert refused.retry_after_s == 30
    made = envelopes()
    for name in ("openai", "openai_responses"):
        assert json.loads(made[name].error_body(refused, "R1"))["error"]["type"] == "rate_limit_error"
    assert responses.PROMO not in made["openai_responses"].error_headers("R1", refused)
    details = json.loads(made["gemini"].error_body(refused, "R1"))["error"]["details"]
    assert [each["@type"].rpartition(".")[2] for each in details] == ["ErrorInfo", "RetryInfo"]


def test_a_402_is_final_for_what_is_built_on_litellm():
    refused = limit_refusals.billing_required(WHO, LINKS["sold here"], 5, 10)
    for name in ("openai", "openai_responses"):
        error = json.loads(envelopes()[name].error_body(refused, "R1"))["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "billing_required")
    error = json.loads(envelopes()["anthropic"].error_body(refused, "R1"))["error"]
    assert error["type"] == "billing_error"
