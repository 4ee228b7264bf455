"""What every refusal says, in the envelope of each API: what a customer can do, where, and no word for operators."""

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from billing.attempts import TooManyAttempts
from billing.holds.decision import Exhausted, InsufficientBalance, QuotaExceeded, TooManyRunning
from billing.keys.presented import DifferentKeys
from billing.plans import Plan
from billing.principals import Limit, Subject
from billing.quotas import Metric, Quota, Window
from gateway.config.defaults import Limits
from gateway.dialects.base import Envelope
from gateway.dialects.openai_responses import envelopes as responses
from gateway.dialects.registry import make_dialects
from gateway.dialects.structure import StructureBounds
from gateway.server import limit_refusals, refusals
from gateway.server.limit_refusals import Links
from gateway.server.refusals import Refusal
from gateway.upstream.base import AccountBusy, UpstreamBusy, UpstreamTimeout
from tests.gateway.server.test_refusals import principal

ROOT: Final = Path(__file__).parents[3]
FRONT, PAY, CONSOLE = "https://pay.example.com", "https://gw.example.com/pay", "https://gw.example.com/console"
SETTINGS: Final = {name for field in dataclasses.fields(Limits) if "_" in (name := field.name)}
SAID_OF_REQUESTS: Final = {"max_parallel_requests", "max_output_tokens", "context_window"}
FOR_OPERATORS: Final = re.compile(
    r"\boperators?\b|metergate operator|(?:metergate|plans|prices)\.yaml|[A-Z]+_[A-Z_]+|\b(?:"
    + "|".join(sorted(SETTINGS - SAID_OF_REQUESTS))
    + r")\b"
)
STARTER: Final = Plan("starter", "Starter", 99 * 10**9)
FREE: Final = Plan("free", "Free", 0, upgrade_to="starter")
WHO: Final = principal(FREE)
AT_MS: Final = int(datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp() * 1000)
LINKS: Final = {
    "sold here": Links(None, {"starter": STARTER}, PAY, CONSOLE),
    "on the operator's own page": Links(FRONT, {"starter": STARTER}, PAY, CONSOLE),
    "asked for on the operator's page": Links(FRONT, {"starter": STARTER}, None, CONSOLE),
    "nowhere": Links(None, {"starter": STARTER}, None, CONSOLE),
}


def spent(
    subject: Subject, window: Window = Window.day, *, requested: int = 5, held: int = 0, metric: Metric = Metric.tokens
) -> QuotaExceeded:
    """A limit of 10 of which 8 are used, or held."""
    exhausted = Exhausted(Limit(subject, Quota(window, metric, 10)), 8 - held, held, requested)
    return QuotaExceeded((exhausted,), AT_MS, 2, 7)


def of_limits(links: Links) -> dict[str, list[Refusal]]:
    """What each constructor of `limit_refusals` makes."""
    subjects: tuple[Subject, ...] = ("key", "user", "plan", "account")
    quotas = [spent(subject, window) for subject in subjects for window in Window]
    never = [spent(subject, requested=11, metric=metric) for subject in subjects for metric in Metric]
    held = [spent("key", held=5), InsufficientBalance(1, 5, 9, 3)]
    statuses = ("active", "suspended", "closed", "past_due")
    no_access = replace(WHO, plan=replace(FREE, features=(("api_access", False),)))
    return {
        "of_decision": [limit_refusals.of_decision(InsufficientBalance(1, 5, 0, 3), WHO, links, "max_tokens")],
        "billing_required": [
            limit_refusals.billing_required(replace(WHO, status=status), links, 5, 10)  # type: ignore[arg-type]
            for status in statuses
        ],
        "quota_exceeded": [
            limit_refusals.quota_exceeded(each, WHO, links, field)
            for each in (*quotas, *never)
            for field in ("max_tokens", None)
        ],
        "capacity_held": [limit_refusals.capacity_held(each, WHO, links, "max_tokens") for each in held],  # type: ignore[arg-type]
        "concurrency_exceeded": [limit_refusals.concurrency_exceeded(TooManyRunning("plan"))],
        "no_scope": [limit_refusals.no_scope("llm:proxy", each, links) for each in (WHO, no_access)],
    }


def of_proxy(links: Links) -> dict[str, list[Refusal]]:
    """What each constructor of `refusals` makes."""
    upstream = (AccountBusy("p"), UpstreamBusy("p"), UpstreamTimeout("p"), RuntimeError())
    return {
        "invalid_key": [refusals.invalid_key(links.keys_url), refusals.invalid_key(None)],
        "different_keys": [refusals.different_keys(DifferentKeys())],
        "too_many_attempts": [refusals.too_many_attempts(TooManyAttempts(9))],
        "bad_request": [refusals.bad_request("Missing required parameter: 'model'.", "model")],
        "bad_head": [refusals.bad_head(too_large=large) for large in (True, False)],
        "heads_too_large": [refusals.heads_too_large()],
        "too_many_connections": [refusals.too_many_connections()],
        "too_many_of_account": [refusals.too_many_of_account()],
        "too_large": [refusals.too_large(9)],
        "not_found": [refusals.not_found("/x"), refusals.not_found("/x", "/v1/x")],
        "unmetered": [refusals.unmetered("/v1/x", "it can't be metered")],
        "method_not_allowed": [refusals.method_not_allowed("PUT", "/v1/x", "POST")],
        "object_not_found": [refusals.object_not_found("resp_1")],
        "stored_elsewhere": [refusals.stored_elsewhere("m", "p")],
        "model_not_found": [refusals.model_not_found("m")],
        "model_not_served": [refusals.model_not_served("m", "gemini", ["openai"])],
        "model_not_priced": [refusals.model_not_priced("The model `m` has no price here")],
        "insufficient_scope": [refusals.insufficient_scope("llm:proxy", links.keys_url)],
        "lacking": [refusals.lacking("llm:proxy", "This key lacks it.")],
        "model_not_allowed": [refusals.model_not_allowed("m")],
        "unavailable": [refusals.unavailable()],
        "unsettled": [refusals.unsettled()],
        "faulty": [refusals.faulty()],
        "answer_too_large": [refusals.answer_too_large(9)],
        "upstream_error": [refusals.upstream_error()],
        "upstream_refuses_us": [refusals.upstream_refuses_us()],
        "upstream_timeout": [refusals.upstream_timeout()],
        "of_upstream": [refusals.of_upstream(error) for error in upstream],
        "too_many_bytes": [refusals.too_many_bytes("account")],
    }


def constructors(module: ModuleType) -> set[str]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {
        name
        for name, made in functions
        if made.__module__ == module.__name__
        and made.__annotations__.get("return") == "Refusal"
        and not name.startswith("_")
    }


def every() -> Iterator[tuple[str, str, Refusal]]:
    for where, links in LINKS.items():
        for name, made in {**of_proxy(links), **of_limits(links)}.items():
            yield from ((where, name, refusal) for refusal in made)


def envelopes() -> dict[str, Envelope]:
    return {type(each).__module__.split(".")[2]: each for each in make_dialects(StructureBounds()).all}


def test_every_refusal_is_looked_at() -> None:
    links = LINKS["nowhere"]
    assert constructors(refusals) == set(of_proxy(links))
    assert constructors(limit_refusals) == set(of_limits(links))


def test_no_refusal_tells_a_customer_what_an_operator_can_do() -> None:
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


def test_the_address_stands_in_the_message_of_every_refusal_that_has_one() -> None:
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


def test_what_an_operator_can_do_is_kept_for_them() -> None:
    links = LINKS["sold here"]
    assert (
        limit_refusals.billing_required(WHO, links, 5, 10).hint
        == "`metergate operator grant a AMOUNT_USD` gives credit"
    )
    hint = limit_refusals.quota_exceeded(spent("key"), WHO, links).hint
    assert hint == "`metergate operator key update k --quota ...` raises it"


RAISED_FOR_OPERATORS: Final = {"billing/payments/desk.py", "billing/price_trials.py", "billing/exports/cursor.py"}
"""What only they can cause."""
SAYS: Final = re.compile(r"metergate operator|(?:metergate|plans|prices)\.yaml|under `?defaults`?")


def test_no_exception_that_a_customer_can_cause_names_an_operator_s_command() -> None:
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


ALLOWED: Final = {"gateway/server/aiohttp_private.py", "gateway/process/worker.py"}
"""Raised where the gateway starts."""


def test_no_customer_s_page_names_an_operator_s_command() -> None:
    for page in sorted((ROOT / "billing" / "web" / "templates").glob("*.html")):
        if page.name.startswith(("operator", "list", "thing")):
            continue
        assert "metergate operator" not in page.read_text("utf-8"), page.name


def final(window: Window, requested: int = 5) -> Refusal:
    return limit_refusals.quota_exceeded(
        spent("plan", window, requested=requested), WHO, LINKS["sold here"], "max_tokens"
    )


def test_a_request_larger_than_a_limit_is_final_and_says_what_would_fit() -> None:
    refused = final(Window.minute, requested=11)
    headers = refused.headers("R1", envelopes()["openai"])
    assert refused.status == 429
    assert (headers["x-should-retry"], "Retry-After" in headers) == ("false", False)
    assert refused.message == (
        "The plan's limit is 10 tokens a minute, and this request may take 11: lower max_tokens to 7 or less, or ask "
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
            "limit is 1,000 tokens a day, and this request may take 5,085: its input alone is too large, so shorten",
        ),
        (
            Metric.cost,
            10**9,
            2 * 10**9,
            1_500,
            "max_output_tokens",
            "limit is 1.00 USD a day, and this request may take 2.00 USD: lower max_output_tokens to 1,500 or less,",
        ),
        (
            Metric.tokens,
            20,
            30,
            5,
            None,
            "limit is 20 tokens a day, and this request may take 30: its input alone is too large, so shorten",
        ),
        (Metric.requests, 0, 1, 0, "max_tokens", "quota of 0 requests a day allows nothing."),
    ],
)
def test_a_limit_that_is_too_small_is_told_in_its_unit(
    metric: Metric, limit: int, requested: int, fits: int, field: str | None, message: str
) -> None:
    exhausted = Exhausted(Limit("key", Quota(Window.day, metric, limit)), 0, 0, requested)
    refused = QuotaExceeded((exhausted,), AT_MS, fits, fits)
    said = limit_refusals.quota_exceeded(refused, WHO, LINKS["sold here"], field).message
    assert f"The key's {message}" in said
    assert said.endswith(f"The key's owner can raise it at {CONSOLE}/keys/k.")


def test_a_limit_is_told_in_words() -> None:
    quota = Quota(Window.hour, Metric.input_tokens, 3)
    small = QuotaExceeded((Exhausted(Limit("key", quota), 0, 0, 92),), AT_MS)
    said = limit_refusals.quota_exceeded(small, WHO, LINKS["sold here"]).message
    assert said.startswith("The key's limit is 3 input tokens an hour, and this request may take 92")


def test_a_limit_that_is_too_small_is_named_before_one_that_is_used_up() -> None:
    small = Exhausted(Limit("key", Quota(Window.minute, Metric.tokens, 10)), 0, 0, 11)
    used_up = Exhausted(Limit("plan", Quota(Window.total, Metric.requests, 10)), 10, 0, 1)
    refused = limit_refusals.quota_exceeded(QuotaExceeded((used_up, small), AT_MS), WHO, LINKS["sold here"])
    assert refused.extra["quota"]["window"] == "minute"  # type: ignore[index]
    assert refused.retry_after_s is None


def test_a_plan_that_would_not_do_is_not_offered() -> None:
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


def test_each_api_says_in_its_own_way_that_a_quota_is_final() -> None:
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


def test_a_quota_of_google_s_clients_that_never_resets_has_the_word_that_stops_them() -> None:
    gemini = envelopes()["gemini"]
    for refused in (final(Window.total), final(Window.day, requested=11)):
        details = json.loads(gemini.error_body(refused, "R1"))["error"]["details"]
        [failure] = [each for each in details if each["@type"].endswith("QuotaFailure")]
        assert "PerDay" in failure["violations"][0]["quotaId"]
        assert not any(each["@type"].endswith("RetryInfo") for each in details)


def test_a_quota_that_resets_within_a_minute_is_not_final() -> None:
    soon = QuotaExceeded(spent("plan", Window.minute).exhausted, AT_MS + 30_000)
    refused = limit_refusals.quota_exceeded(soon, WHO, LINKS["sold here"])
    assert refused.retry_after_s == 30
    made = envelopes()
    for name in ("openai", "openai_responses"):
        assert json.loads(made[name].error_body(refused, "R1"))["error"]["type"] == "rate_limit_error"
    assert responses.PROMO not in made["openai_responses"].error_headers("R1", refused)
    details = json.loads(made["gemini"].error_body(refused, "R1"))["error"]["details"]
    assert [each["@type"].rpartition(".")[2] for each in details] == ["ErrorInfo", "RetryInfo"]


def test_a_402_is_final_for_what_is_built_on_litellm() -> None:
    refused = limit_refusals.billing_required(WHO, LINKS["sold here"], 5, 10)
    for name in ("openai", "openai_responses"):
        error = json.loads(envelopes()[name].error_body(refused, "R1"))["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "billing_required")
    error = json.loads(envelopes()["anthropic"].error_body(refused, "R1"))["error"]
    assert error["type"] == "billing_error"
