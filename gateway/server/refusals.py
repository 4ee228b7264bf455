"""Refusals: every no that the proxy says, in OpenAI's envelope. This file owns codes, statuses and wording.

Error object: https://platform.openai.com/docs/guides/error-codes. OpenAI's and Anthropic's clients obey
`x-should-retry`; a refusal that will not clear within a minute says false.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from billing.api.auth import INCORRECT_KEY
from billing.api.error_middleware import LISTED
from billing.attempts import TooManyAttempts
from billing.errors import MetergateError
from billing.keys.presented import DifferentKeys
from billing.money import format_usd
from billing.plans import Plan
from billing.quotas import Quota
from gateway.server.exchange import Exchange
from gateway.server.metering_headers import REQUEST_ID
from gateway.upstream.base import AccountBusy, UpstreamBusy, UpstreamTimeout

UNAVAILABLE_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. `extra` stands inside `error`, `sent` are further headers; `retry_after_s` is None where waiting
    does not help."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    sent: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: int | None = None
    retries: bool = False
    """Whether a client may try again by itself soon."""

    def body(self) -> bytes:
        said = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.extra}
        return msgspec.json.encode({"error": said})

    def headers(self, request_id: str) -> dict[str, str]:
        """All headers of the answer but those of its framing."""
        headers = {"Content-Type": "application/json; charset=utf-8", REQUEST_ID: request_id, **self.sent}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if not self.retries:
            headers["x-should-retry"] = "false"
        return headers

    def answer(self, exchange: Exchange, request_id: str) -> None:
        """Answer an exchange with this."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(request_id).items())
        exchange.answer(self.status, lines.encode(), self.body())

    def response(self, request_id: str) -> web.Response:
        """The same answer for the application's own endpoints."""
        return web.Response(status=self.status, body=self.body(), headers=self.headers(request_id))


class Refuse(MetergateError):
    """Ends a request with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Links:
    """Where a refusal leads: the operator's own page (FRONTEND_URL), None where there is none, and the plans to upgrade
    to."""

    frontend_url: str | None
    plans: Mapping[str, Plan]

    def credit(self, account_id: str) -> str:
        """How an account gets credit: there are no payments."""
        return f"ask {self._operator} for credit (`metergate operator grant {account_id} AMOUNT_USD`)"

    def activation(self, account_id: str) -> str:
        """How an account that may not spend gets active again."""
        return f"ask {self._operator} to make it active again (PATCH /api/admin/accounts/{account_id})"

    @property
    def _operator(self) -> str:
        return "whoever runs this gateway" + (f" ({self.frontend_url})" if self.frontend_url else "")

    def upgrade(self, plan: Plan, quota: Quota) -> dict[str, object] | None:
        """The next plan, or None where there is none, or where it does not raise this quota of the plan's."""
        better = self.plans.get(plan.upgrade_to or "")
        if better is None or any(each.tag == quota.tag and each.limit <= quota.limit for each in better.quotas):
            return None
        price_usd = format_usd(better.price_nano)
        return {"plan": better.id, "name": better.name, "price_usd": price_usd, "url": self.frontend_url}


def invalid_key() -> Refusal:
    """Its text begins as OpenAI's does, by which some clients tell a wrong key."""
    return Refusal(
        401,
        "invalid_api_key",
        f"{INCORRECT_KEY}: it is missing, wrong, revoked or expired. Send one of this gateway's keys as "
        "`Authorization: Bearer mg_...`; whoever runs the gateway makes them (`metergate operator key create`).",
    )


def different_keys(error: DifferentKeys) -> Refusal:
    """A request shows two API keys that are not the same."""
    return Refusal(401, "invalid_api_key", str(error))


def invalid_admin_key() -> Refusal:
    message = f"{INCORRECT_KEY}: this call needs the admin key, as X-Admin-Key."
    return Refusal(401, "invalid_api_key", message)


def metrics_need_admin() -> Refusal:
    """Nobody else may see what providers cost."""
    return Refusal(
        401,
        "invalid_api_key",
        f"{INCORRECT_KEY}: metrics need the admin key here, in X-Admin-Key or as Authorization: Bearer; METRICS_ADDR "
        "is for reading them without.",
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


def not_found(path: str, meant: str | None = None) -> Refusal:
    """`meant` is a path that exists and differs in its slashes, or in how often `/v1` stands before it."""
    hint = LISTED
    if meant is not None:
        hint = f"Did you mean {meant[:200]}? A client's base URL ends with /v1, once: check it."
    return Refusal(404, "not_found", f"There is nothing at {path[:200]}. {hint}")


def method_not_allowed(method: str, path: str, allowed: str) -> Refusal:
    """`allowed` lists the methods of this path."""
    return Refusal(405, "method_not_allowed", f"{method} is not allowed on {path[:200]}; allowed: {allowed}.")


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


def upstream_refuses_us() -> Refusal:
    """502 where a provider refused the operator's own key. Nothing of its answer is told: keys may stand in it."""
    message = (
        "The provider does not accept this gateway's own key; nothing was charged. Tell whoever runs the gateway, with "
        "the x-request-id."
    )
    return Refusal(502, "upstream_error", message, type="server_error")


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


def too_many_bytes(whose: str) -> Refusal:
    message = f"This {whose} has too many bytes of request bodies in flight: wait for running requests to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)
