"""One of everything that the proxy refuses, made by every constructor of refusals."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from billing.api.attempts import TooManyAttempts
from billing.holds.model import Exhausted, InsufficientBalance, QuotaExceeded, TooManyRunning
from billing.keys.secrets import DifferentKeys
from billing.plans import Plan
from billing.principals import Limit, Principal, Subject
from billing.quotas import Metric, Quota, Window
from gateway.dialects.base import Envelope
from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects
from gateway.server import limit_refusals, refusals
from gateway.server.limit_refusals import Links
from gateway.server.refusals import Refusal
from gateway.upstream.base import AccountBusy, UpstreamBusy, UpstreamTimeout

FRONT, PAY, CONSOLE = "https://pay.example.com", "https://gw.example.com/pay", "https://gw.example.com/console"


def principal(plan: Plan) -> Principal:
    """A principal of this plan with nothing else of interest."""
    return Principal(
        account_id="a",
        account_name="A",
        account_version=1,
        status="active",
        past_due_since_s=None,
        credit_limit_nano=0,
        account_quotas=(),
        plan=plan,
        key_id="k",
        key_version=1,
        key_name="K",
        key_prefix="mg_",
        user_id=None,
        scopes=frozenset(),
        models=None,
        key_quotas=(),
        max_parallel_requests=None,
        tags={},
        created_at_s=0,
        expires_at_s=None,
        revoked_at_s=None,
    )


STARTER = Plan("starter", "Starter", 99 * 10**9)
FREE = Plan("free", "Free", 0, upgrade_to="starter")
WHO = principal(FREE)
AT_MS = int(datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp() * 1000)
LINKS = {
    "sold here": Links(None, {"starter": STARTER}, PAY, CONSOLE),
    "on the operator's own page": Links(FRONT, {"starter": STARTER}, PAY, CONSOLE),
    "asked for on the operator's page": Links(FRONT, {"starter": STARTER}, None, CONSOLE),
    "nowhere": Links(None, {"starter": STARTER}, None, CONSOLE),
}


def spent(
    subject: Subject,
    window: Window = Window.day,
    *,
    used: int = 8,
    requested: int = 5,
    held: int = 0,
    metric: Metric = Metric.tokens,
) -> QuotaExceeded:
    """A limit of 10 of which 8 are used, or held."""
    exhausted = Exhausted(Limit(subject, Quota(window, metric, 10)), used - held, held, requested)
    return QuotaExceeded((exhausted,), AT_MS, 2, 7)


def of_limits(links: Links) -> dict[str, list[Refusal]]:
    """What each constructor of `limit_refusals` makes."""
    subjects: tuple[Subject, ...] = ("key", "user", "plan", "account")
    quotas = [spent(subject, window) for subject in subjects for window in Window]
    used_up = [spent(subject, used=10) for subject in subjects]
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
            for each in (*quotas, *used_up, *never)
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


def every() -> Iterator[tuple[str, str, Refusal]]:
    """Where things are sold, what made it, and the refusal."""
    for where, links in LINKS.items():
        for name, made in {**of_proxy(links), **of_limits(links)}.items():
            yield from ((where, name, refusal) for refusal in made)


def envelopes() -> dict[str, Envelope]:
    return {type(each).__module__.split(".")[2]: each for each in make_dialects(StructureBounds()).all}


@dataclass(frozen=True, slots=True)
class Case:
    """A refusal in the envelope of a dialect."""

    name: str
    refusal: Refusal
    envelope: Envelope


def every_case() -> Iterator[Case]:
    """Each refusal in each envelope, and those that differ by where things are sold in OpenAI's alone."""
    for dialect, envelope in envelopes().items():
        for where, name, refusal in every():
            if dialect == "openai" or where == "sold here":
                yield Case(f"{dialect}: {name}, {where}", refusal, envelope)
