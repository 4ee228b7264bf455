"""Refusals: all that the proxy refuses, by code, status and wording. This file owns these; a dialect owns the envelope.

OpenAI's and Anthropic's clients obey `x-should-retry`; a refusal that will not clear within a minute says false. Those
that look at something else find it in the envelope of their API, which is made from `Refusal.final`.

A message is for whoever sent the request: it names what they can do, with the address of the page for it, and never a
command or a setting of whoever runs the gateway. Those stand in `hint`, for the log and the operator's pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.errors import INCORRECT_KEY, LISTED, MetergateError
from gateway.dialects.body import quoted
from gateway.dialects.openai import dialect as openai_errors
from gateway.server.caching import NO_STORE
from gateway.server.ids import REQUEST_ID
from gateway.upstream.base import AccountBusy, UpstreamBusy, UpstreamTimeout

if TYPE_CHECKING:
    from billing.keys.secrets import DifferentKeys
    from gateway.dialects.base import Envelope
    from gateway.server.exchange import Exchange

UNAVAILABLE_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class FinalQuota:
    """A quota that does not reset within a minute. `name` identifies it, in letters and hyphens. It resets in `wait_s`
    seconds, at `resets_at_s` in Unix time; both are None if waiting never helps."""

    name: str
    subject: str
    metric: str
    wait_s: int | None
    resets_at_s: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. `extra` stands inside `error`, `sent` are further headers; `retry_after_s` is None where waiting
    does not help. `hint` is what whoever runs the gateway can do, and is never sent."""

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
    final: FinalQuota | None = None
    hint: str | None = None

    def headers(self, request_id: str, envelope: Envelope) -> dict[str, str]:
        """Return all headers of the answer but those of its framing."""
        headers = {"Content-Type": "application/json; charset=utf-8", REQUEST_ID: request_id, **self.sent}
        headers["Cache-Control"] = NO_STORE
        headers |= envelope.error_headers(request_id, self)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if not self.retries:
            headers["x-should-retry"] = "false"
        return headers

    def answer(self, exchange: Exchange, request_id: str) -> None:
        """Answer an exchange with this, in the envelope of its client's API."""
        envelope = exchange.envelope or openai_errors
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(request_id, envelope).items())
        exchange.answer(self.status, lines.encode(), envelope.error_body(self, request_id))

    def raw(self, request_id: str) -> bytes:
        """Return the whole answer for a connection of which nothing was read; it ends the connection."""
        body = openai_errors.error_body(self, request_id)
        headers = {**self.headers(request_id, openai_errors), "Content-Length": len(body), "Connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n{lines}\r\n".encode() + body

    def response(self, request_id: str, envelope: Envelope = openai_errors) -> web.Response:
        """Return the same for the application's own endpoints: in OpenAI's envelope where no other API is meant."""
        body = envelope.error_body(self, request_id)
        return web.Response(status=self.status, body=body, headers=self.headers(request_id, envelope))


class Refuse(MetergateError):
    """Ends a request with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def invalid_key(keys_url: str | None) -> Refusal:
    """Return 401 for a key that is missing or not valid; its text begins as OpenAI's does, by which clients know it."""
    return Refusal(
        401,
        "invalid_api_key",
        f"{INCORRECT_KEY}: it is missing, wrong, revoked or expired. Send one of this gateway's keys as "
        f"`Authorization: Bearer mg_...`: create one {'' if keys_url is None else f'at {keys_url}, or '}with "
        "`metergate keys create`.",
    )


def different_keys(error: DifferentKeys) -> Refusal:
    """Return 401 for a request with two API keys that are not the same."""
    return Refusal(401, "invalid_api_key", str(error))


def too_many_attempts(error: MetergateError) -> Refusal:
    """Return 429 for an address that has shown too many wrong keys."""
    return Refusal(429, "too_many_attempts", str(error), retry_after_s=error.retry_after_s)


def bad_request(message: str, param: str | None = None) -> Refusal:
    """Return the refusal of a request that is wrong."""
    return Refusal(400, "invalid_request_error", message, param=param)


def bad_head(*, too_large: bool) -> Refusal:
    """Return 400 for what could not be read as a request at all."""
    if too_large:
        return bad_request("The request's line or headers are too long: send fewer or shorter ones.")
    return bad_request("This can't be read as an HTTP/1.1 request: check its request line, headers and framing.")


def heads_too_large() -> Refusal:
    """Return 503: requests that are not complete yet take too much memory all together."""
    return unavailable(
        "Too many requests are unfinished here: send a request's line and headers at once, and try again."
    )


def too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a body above its bound."""
    return Refusal(413, "request_too_large", f"The body is larger than {limit_bytes} bytes: send a smaller one.")


def not_found(path: str, meant: str | None = None) -> Refusal:
    """Return 404; `meant` is a path that exists and differs in its slashes, or in how often `/v1` stands before it."""
    hint = LISTED
    if meant is not None:
        hint = f"Did you mean {meant[:200]}? A client's base URL ends with /v1, once: check it."
    return Refusal(404, "not_found", f"There is nothing at {path[:200]}. {hint}")


def unmetered(path: str, reason: str) -> Refusal:
    """Return 404 for a path of a provider's that is known, and not served for a reason."""
    return Refusal(404, "not_found", f"{path[:200]} is not served here: {reason}.")


def method_not_allowed(method: str, path: str, allowed: Iterable[str], hint: str = "") -> Refusal:
    """Return 405; `allowed` are the methods of this path, and `hint` what else to know of them."""
    listed = ", ".join(sorted(allowed))
    message = f"{method} is not allowed on {path[:200]}; allowed: {listed}{hint}."
    return Refusal(405, "method_not_allowed", message, sent={"Allow": listed})


def object_not_found(object_id: str) -> Refusal:
    """Return 404 for an object that the account has not created here: it may be another account's."""
    message = f"There is no stored object {quoted(object_id)} of your account here: check the id."
    return Refusal(404, "not_found", message)


def stored_elsewhere(model: str, provider: str) -> Refusal:
    """Return 400: the objects that a request names are at a provider that does not serve its model."""
    message = f"This request continues from an object at `{provider}`, which does not serve {quoted(model)} here."
    return Refusal(400, "invalid_request_error", message, param="model")


def model_not_found(model: str) -> Refusal:
    """Return the refusal of a model that nobody serves."""
    message = f"The model {quoted(model)} does not exist here. GET /v1/models lists those that this key may use."
    return Refusal(404, "model_not_found", message, param="model")


def model_not_served(model: str, asked: str, served: Iterable[str]) -> Refusal:
    """Return 404: the model's provider does not serve the API that was asked; `served` are those that it does."""
    others = ", ".join(sorted(served)) or "none"
    message = f"The model {quoted(model)} is not served in the API `{asked}`; those that it is served in: {others}."
    return Refusal(404, "model_not_found", message, param="model")


def model_not_priced(reason: str) -> Refusal:
    """Return the refusal of a request for which there is no price."""
    message = f"{reason}. Ask whoever runs this gateway to add it, or use another model: GET /v1/models lists them."
    return Refusal(
        400, "model_not_priced", message, param="model", hint=f"{reason}: complete the model's row in prices.yaml"
    )


def insufficient_scope(scope: str, keys_url: str | None = None) -> Refusal:
    """Return the refusal of a key without the scope that is needed."""
    where = "" if keys_url is None else f": {keys_url}"
    message = f"This key lacks the scope `{scope}`: use a key that has it{where}."
    return lacking(scope, message)


def lacking(scope: str, message: str) -> Refusal:
    """Return 403 for whoever lacks a scope, in these words."""
    return Refusal(403, "insufficient_scope", message, type="permission_error", extra={"required_scope": scope})


def model_not_allowed(model: str) -> Refusal:
    """Return the refusal of a model that the key may not use."""
    message = f"This key may not use the model {quoted(model)}. GET /v1/models lists those that it may."
    return Refusal(403, "model_not_allowed", message, type="permission_error", param="model")


def unavailable(message: str = "The gateway can't meter requests right now: try again in a moment.") -> Refusal:
    """Return the refusal of a request for which a store is away."""
    return Refusal(
        503,
        "temporarily_unavailable",
        message,
        type="server_error",
        retry_after_s=UNAVAILABLE_RETRY_S,
        retries=True,
    )


def too_many_connections() -> Refusal:
    """Return 503 for a connection that can't be kept, or that ends for others because it has kept them waiting."""
    return unavailable("Too many connections are open here: send each request whole and at once, and try again soon.")


def too_many_of_account() -> Refusal:
    """Return 503 for a request of an account that has its share of connections, all of them busy."""
    return unavailable("Your account has as many connections open here as one account may: wait for one to finish.")


def unsettled() -> Refusal:
    """Return 503 for an answer that was withheld because neither store could record its debit."""
    message = (
        "The gateway could not record what this request costs, and withholds its answer. It may still be charged, "
        "once, when its stores are back: look its x-request-id up in the usage events before you repeat it."
    )
    return Refusal(
        503, "temporarily_unavailable", message, type="server_error", retry_after_s=UNAVAILABLE_RETRY_S, retries=False
    )


def faulty() -> Refusal:
    """Return 502 after a fault of the gateway's own that charged what was held."""
    return upstream_error(
        "The gateway failed after the provider had answered, and this request was charged: look its x-request-id up in "
        "the usage events, and report it."
    )


def answer_too_large(limit_bytes: int) -> Refusal:
    """Return 502 for an answer above the bound of what is read whole; the provider has worked, so it is charged."""
    return upstream_error(
        f"The provider's answer is larger than {limit_bytes} bytes. The request was charged: ask for less (n, "
        "logprobs), or for a stream."
    )


def upstream_error(message: str = "The provider gave no usable answer; nothing was charged.") -> Refusal:
    """Return the refusal that stands for an unusable answer of a provider."""
    return Refusal(502, "upstream_error", message, type="server_error", retries=True)


def upstream_refuses_us() -> Refusal:
    """Return 502 where a provider refused the operator's own key, without its answer: it may contain keys."""
    message = (
        "The provider does not accept this gateway's own key; nothing was charged. Tell whoever runs the gateway, with "
        "the x-request-id."
    )
    hint = "the provider refuses the key of its entry under `providers`: `metergate doctor` checks it"
    return Refusal(502, "upstream_error", message, type="server_error", hint=hint)


def upstream_timeout() -> Refusal:
    """Return the refusal that stands for the answer of a provider that was silent for too long."""
    message = "The provider was silent for too long; nothing was charged."
    return Refusal(504, "upstream_timeout", message, type="server_error", retries=True)


def of_upstream(error: Exception) -> Refusal:
    """Return the refusal where a provider gave no usable answer."""
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
    """Return the refusal of a body that finds no room in memory."""
    message = f"This {whose} has too many bytes of request bodies in flight: wait for running requests to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)
