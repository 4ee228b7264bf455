"""Refusals: every no that the proxy says, in OpenAI's envelope (SPEC 9). This file owns codes, statuses and wording.

Error object: https://platform.openai.com/docs/guides/error-codes. OpenAI's and Anthropic's clients obey
`x-should-retry`; a refusal that will not clear within a minute says false.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec
from aiohttp import web

from billing.attempts import TooManyAttempts
from billing.holds.decision import Exhausted, InsufficientBalance, QuotaExceeded, Refused, TooManyRunning
from billing.money import format_usd
from billing.plans import Plan
from billing.presented import DifferentKeys
from billing.principals import Principal
from billing.quotas import Metric, Window, window_end_s
from gateway.answers import REQUEST_ID
from gateway.call import Call
from gateway.upstream import AccountBusy, UpstreamBusy, UpstreamTimeout

RETRY_WITHIN_S: Final = 60
UNAVAILABLE_RETRY_S: Final = 2
NEXT_COMMAND: Final = "metergate billing setup"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. `extra` stands inside `error`; `retry_after_s` is None where waiting does not help."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    retry_after_s: int | None = None
    retries: bool = False
    """Whether a client may try again by itself soon."""

    def body(self) -> bytes:
        said = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.extra}
        return msgspec.json.encode({"error": said})

    def headers(self, request_id: str) -> dict[str, str]:
        """All headers of the answer but those of its framing."""
        headers = {"Content-Type": "application/json; charset=utf-8", REQUEST_ID: request_id}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if not self.retries:
            headers["x-should-retry"] = "false"
        return headers

    def answer(self, call: Call, request_id: str) -> None:
        """Answer a call with this."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(request_id).items())
        call.answer(self.status, lines.encode(), self.body())

    def response(self, request_id: str) -> web.Response:
        """The same answer for the application's own endpoints."""
        return web.Response(status=self.status, body=self.body(), headers=self.headers(request_id))


class Refuse(Exception):
    """Ends a request with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Links:
    """Where a refusal leads: pages of the front end, and the plans to upgrade to."""

    frontend_url: str
    plans: Mapping[str, Plan]

    @property
    def setup_url(self) -> str:
        return f"{self.frontend_url}/billing/setup"

    def upgrade(self, plan: Plan) -> dict[str, object] | None:
        """The next plan, or None where there is none."""
        better = self.plans.get(plan.upgrade_to or "")
        if better is None:
            return None
        url = f"{self.frontend_url}/billing/upgrade?plan={better.id}"
        return {"plan": better.id, "name": better.name, "price_usd": format_usd(better.price_nano), "url": url}


def invalid_key() -> Refusal:
    return Refusal(
        401,
        "invalid_api_key",
        "This API key is missing, wrong, revoked or expired. Send a valid one as `Authorization: Bearer mg_...`.",
    )


def different_keys(error: DifferentKeys) -> Refusal:
    """A request shows two API keys that are not the same."""
    return Refusal(401, "invalid_api_key", str(error))


def invalid_admin_key() -> Refusal:
    return Refusal(401, "invalid_api_key", "This call needs the admin key: send it as X-Admin-Key.")


def metrics_need_admin() -> Refusal:
    """Nobody else may see what providers cost."""
    return Refusal(
        401,
        "invalid_api_key",
        "Metrics need the admin key here, in X-Admin-Key or as Authorization: Bearer; METRICS_ADDR is for reading them "
        "without.",
    )


def too_many_attempts(error: TooManyAttempts) -> Refusal:
    """An address has shown too many wrong keys."""
    return Refusal(429, "too_many_attempts", str(error), retry_after_s=error.retry_after_s)


def bad_request(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "invalid_request_error", message, param=param)


def bad_head(*, too_large: bool) -> Refusal:
    """What could not be read as a request at all."""
    if too_large:
        return bad_request("The request's line or headers are too long: send fewer or shorter ones.")
    return bad_request("This is no HTTP/1.1 request that can be read: check its request line, headers and framing.")


def heads_too_large() -> Refusal:
    """Requests that are not whole yet take too much memory all together."""
    return unavailable(
        "Too many requests are unfinished here: send a request's line and headers at once, and try again."
    )


def too_large(limit_bytes: int) -> Refusal:
    return Refusal(413, "request_too_large", f"The body is larger than {limit_bytes} bytes: send a smaller one.")


def not_found(path: str) -> Refusal:
    return Refusal(
        404, "not_found", f"There is nothing at {path[:200]}. The endpoints are listed in the documentation."
    )


def method_not_allowed(method: str, path: str) -> Refusal:
    return Refusal(405, "method_not_allowed", f"{method} is not a method of {path[:200]}.")


def model_not_found(model: str) -> Refusal:
    message = f"The model `{model[:200]}` does not exist here. GET /v1/models lists those that this key may use."
    return Refusal(404, "model_not_found", message, param="model")


def model_not_priced(reason: str) -> Refusal:
    message = f"{reason}. It is refused rather than served free: ask the operator for a price."
    return Refusal(400, "model_not_priced", message, param="model")


def insufficient_scope(scope: str) -> Refusal:
    message = f"This key lacks the scope `{scope}`: use a key that has it."
    return Refusal(403, "insufficient_scope", message, type="permission_error", extra={"required_scope": scope})


def model_not_allowed(model: str) -> Refusal:
    message = f"This key may not use the model `{model}`. GET /v1/models lists those that it may."
    return Refusal(403, "model_not_allowed", message, type="permission_error", param="model")


def unavailable(message: str = "The gateway can't meter requests right now: try again in a moment.") -> Refusal:
    return Refusal(
        503,
        "temporarily_unavailable",
        message,
        type="server_error",
        retry_after_s=UNAVAILABLE_RETRY_S,
        retries=True,
    )


def unsettled() -> Refusal:
    """503 for an answer that was withheld because neither store could be told of its debit."""
    message = (
        "The gateway could not record what this request costs, and withholds its answer. It may still be charged, "
        "once, when its stores are back: look its x-request-id up in the usage events before you repeat it."
    )
    return Refusal(
        503, "temporarily_unavailable", message, type="server_error", retry_after_s=UNAVAILABLE_RETRY_S, retries=False
    )


def faulty() -> Refusal:
    """502 after a fault of the gateway's own that charged what was held."""
    return upstream_error(
        "The gateway failed after the provider had answered, and this request was charged: look its x-request-id up in "
        "the usage events, and report it."
    )


def answer_too_large(limit_bytes: int) -> Refusal:
    """502 for an answer above the bound of what is read whole; the provider has done its work, so it is charged."""
    return upstream_error(
        f"The provider's answer is larger than {limit_bytes} bytes. The request was charged: ask for less (n, "
        "logprobs), or for a stream."
    )


def upstream_error(message: str = "The provider gave no usable answer; nothing was charged.") -> Refusal:
    return Refusal(502, "upstream_error", message, type="server_error", retries=True)


def upstream_timeout() -> Refusal:
    message = "The provider was silent for too long; nothing was charged."
    return Refusal(504, "upstream_timeout", message, type="server_error", retries=True)


def of_upstream(error: Exception) -> Refusal:
    """What is said where a provider gave no usable answer."""
    match error:
        case AccountBusy():
            return Refusal(
                429,
                "concurrency_exceeded",
                "Your account has as many requests at this provider as one account may: wait for one to finish.",
                type="rate_limit_error",
                retry_after_s=1,
                retries=True,
            )
        case UpstreamBusy():
            return unavailable(
                "All connections to this provider are in use; nothing was charged. Try again in a moment."
            )
        case UpstreamTimeout():
            return upstream_timeout()
    return upstream_error()


def billing_required(
    principal: Principal, links: Links, available_nano: int | None, required_nano: int | None
) -> Refusal:
    """402: the balance does not cover the request, or the account's status does not let it spend."""
    if principal.status == "active":
        message = "The balance does not cover this request: add credit, or ask for less output."
    else:
        message = f"The account is {principal.status.replace('_', ' ')}: settle its billing to go on."
    billing = {
        "status": principal.status,
        "balance_usd": None if available_nano is None else format_usd(available_nano - principal.credit_limit_nano),
        "required_usd": None if required_nano is None else format_usd(required_nano),
        "setup_url": links.setup_url,
        "next": NEXT_COMMAND,
    }
    return Refusal(402, "billing_required", message, type="billing_error", extra={"billing": billing})


def quota_exceeded(refused: QuotaExceeded, principal: Principal, links: Links) -> Refusal:
    """429 naming the exhausted window that resets last; `total` resets never."""
    at_s = refused.at_ms // 1000

    def resets(exhausted: Exhausted) -> float:
        end_s = window_end_s(exhausted.limit.quota.window, at_s)
        return float("inf") if end_s is None else end_s

    worst = max(refused.exhausted, key=lambda exhausted: (resets(exhausted), exhausted.limit.quota.window))
    quota, subject = worst.limit.quota, worst.limit.subject
    end_s = window_end_s(quota.window, at_s)

    def shown(amount: int) -> object:
        return format_usd(amount) if quota.metric is Metric.cost else amount

    details = {
        "subject": subject,
        "window": quota.window.name,
        "metric": quota.metric.name,
        "limit": shown(quota.limit),
        "used": shown(worst.used),
        "requested": shown(worst.requested),
        "remaining": shown(max(0, quota.limit - worst.used)),
        "resets_at": None if end_s is None else datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if quota.model is not None:
        details["model"] = quota.model
    wait_s = None if end_s is None else max(1, -(-(end_s * 1000 - refused.at_ms) // 1000))
    span = "in total" if quota.window is Window.total else f"a {quota.window.name}"
    message = f"The {subject}'s quota of {details['limit']} {quota.metric.name} {span} is exhausted"
    message += "." if end_s is None else f" until {details['resets_at']}."
    return Refusal(
        429,
        "quota_exceeded",
        message,
        type="rate_limit_error",
        extra={"quota": details, "upgrade": links.upgrade(principal.plan)},
        retry_after_s=wait_s,
        retries=wait_s is not None and wait_s <= RETRY_WITHIN_S,
    )


def concurrency_exceeded(refused: TooManyRunning) -> Refusal:
    message = f"The {refused.subject}'s max_parallel_requests is reached: wait for one to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)


def too_many_bytes(whose: str) -> Refusal:
    message = f"This {whose} has too many bytes of request bodies in flight: wait for running requests to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)


def of_decision(refused: Refused, principal: Principal, links: Links) -> Refusal:
    """The refusal of an admission."""
    match refused:
        case InsufficientBalance(available_nano, required_nano):
            return billing_required(principal, links, available_nano, required_nano)
        case QuotaExceeded():
            return quota_exceeded(refused, principal, links)
        case TooManyRunning():
            return concurrency_exceeded(refused)
