"""Tests of providers: one small request to a model, past metering, and what an operator learns of it.

No account is charged, and nothing is counted as traffic. A target that answers is told so, which closes its circuit for
all gateways; a test that fails tells it nothing, because an operator may try what can't work.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from billing.api.requests import BadRequest, Conflict
from billing.money import format_usd
from billing.schemas.system import ProviderTestShape
from gateway.dialects.body import GarbageAnswer
from gateway.proxy.attempts import KEY_REFUSED, SERVER_ERROR, TOO_MANY
from gateway.proxy.candidates import Target
from gateway.proxy.estimate import charge
from gateway.proxy.headers import outgoing
from gateway.proxy.provider_request import provider_body, provider_url
from gateway.proxy.routing import writes
from gateway.upstream.base import UpstreamBusy, UpstreamError, UpstreamRequest, UpstreamTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from gateway.config.providers import ProviderConfig, TargetConfig
    from gateway.dialects.base import Dialect, Match, Trial
    from gateway.dialects.facts import ParsedRequest, Reported
    from gateway.dialects.registry import Dialects
    from gateway.proxy.candidates import Candidate
    from gateway.proxy.routing import Router
    from gateway.upstream.base import Transport, UpstreamResponse

OK: Final = 200
MOST_ANSWER_BYTES: Final = 256 * 1024
# Of what the provider says, in characters.
MOST_ERROR: Final = 500
# Of the end of a stream that fails, in bytes: what is hidden in it is hidden whole, and it is cut afterwards.
MOST_KEPT: Final = 32 * 1024
_SHOWN: Final = {False: slice(MOST_ERROR), True: slice(-MOST_ERROR, None)}
# A key that is longer is also hidden where a provider shows how it begins, with stars behind.
LONG_KEY: Final = 12
SHOWN_OF_KEY: Final = 6
_RERANKS: Final = "rerank"
_ADVICE: Final = {
    400: "It refuses the request itself: read what it says. `base_url`, `dialects` or `max_output_field` of the "
    "provider's entry may not fit it.",
    402: "The provider wants to be paid: add credit there.",
    404: "It doesn't know this model, or the address: compare `model` of the entry and `base_url` with its own list.",
    TOO_MANY: "A limit of your key at the provider is reached: wait, raise it there, or add a target with another key.",
}
_ADVICE_OF_KEY: Final = (
    "The key is refused: it may be wrong, revoked, or lack this model. Set the provider's key anew, and reload."
)
_FAILS: Final = "The provider itself fails: see its status page. Requests go to other targets and fallbacks meanwhile."


@dataclass(frozen=True, slots=True)
class _Head:
    """What a dialect sees of the request."""

    match: Match
    path: str
    headers: CIMultiDictProxy[str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A test that can be sent."""

    trial: Trial
    dialect: Dialect
    match: Match
    path: str
    parsed: ParsedRequest
    candidate: Candidate
    target: Target
    body: bytes

    def request(self) -> UpstreamRequest:
        """Return what the provider is sent."""
        body = provider_body(
            self.dialect, self.parsed, self.candidate, self.body, None, self.target.max_field, strict=True
        )
        headers = [(name.encode(), value.encode()) for name, value in self.trial.headers.items()]
        takes = "?" in self.path and self.target.takes_query
        url = provider_url(self.target, self.path, self.dialect) if takes else self.target.url
        return UpstreamRequest(url, outgoing(headers, self.target.fixed, ""), body)


@dataclass(slots=True)
class _Answer:
    """What came of a request, and when, in monotonic seconds from its beginning."""

    status: int | None = None
    head_s: float | None = None
    first_token_s: float | None = None
    reported: Reported | None = None
    error: str = ""
    ends_with_error: bool = False
    """Whether `error` is the end of a stream, of which the last characters say what is wrong, and else the first."""
    advice: str = ""

    @property
    def is_sound(self) -> bool:
        """Return whether the provider has answered as it should."""
        return self.status == OK and not self.error


@dataclass(slots=True)
class ProviderTests:
    """Tests providers; a test takes at most `timeout_s`, and one runs at a time for each provider, in this process."""

    providers: Mapping[str, ProviderConfig]
    transports: Mapping[str, Transport]
    router: Router
    dialects: Dialects
    timeout_s: float
    _running: set[str] = field(default_factory=set)

    async def run(
        self, name: str, model: str | None, number: int, sending: Callable[[str], Awaitable[None]]
    ) -> ProviderTestShape | None:
        """Return how a provider answers at one of its targets, by its number; None where there is no such provider.
        `sending` is told the model, before anything is sent. Raises `BadRequest` and `Conflict`."""
        provider = self.providers.get(name)
        if provider is None:
            return None
        if not provider.enabled or name not in self.transports:
            raise Conflict(f"{name} is off: {provider.off_reason or 'this version does not serve its kind'}.")
        if number >= len(provider.all_targets):
            raise BadRequest(f"{name} has no target {number}.", "target")
        if name in self._running:
            raise Conflict(f"A test of {name} is running: wait until it has ended.")
        asked = self._asked(provider, model, number)
        self._running.add(name)
        try:
            await sending(asked.candidate.entry)
            return await self._tested(provider, provider.all_targets[number], number, asked)
        finally:
            self._running.discard(name)

    def _asked(self, provider: ProviderConfig, model: str | None, number: int) -> _Asked:
        """Return what is sent. Raises `BadRequest` where no model there can be asked so."""
        candidate = self._candidate(provider, model)
        wanted = candidate.rates is None or writes(candidate.rates)
        for dialect, trial in self._trials(provider, candidate):
            if trial.writes is not wanted:
                continue
            path = trial.path.replace("{model}", candidate.model)
            match = self.dialects.find("POST", path, {})
            target = None if match is None else _target(provider, match, candidate, number)
            if match is None or target is None:
                continue
            named = {} if "{model}" in trial.path else {"model": candidate.model}
            body = msgspec.json.encode({**named, **trial.body})
            parsed = dialect.parse(_Head(match, path, CIMultiDictProxy(CIMultiDict(trial.headers))), body)
            return _Asked(trial, dialect, match, path, parsed, candidate, target, body)
        raise BadRequest(f"{candidate.entry} can't be tested by a small request: name another model.", "model")

    def _candidate(self, provider: ProviderConfig, model: str | None) -> Candidate:
        now_s = time.time()
        if model is not None:
            route = self.router.find(model, now_s) or self.router.find(f"{provider.name}/{model}", now_s)
            found = None if route is None else next((c for c in route.candidates if c.provider is provider), None)
            if found is None:
                raise BadRequest(f"{model} is no model of {provider.name}.", "model")
            return found
        own = [each.first for each in self.router.entries(now_s) if each.first.provider is provider]
        priced = [(not writes(c.rates), c.rates.output_rate, c.rates.input_rate, c.entry, c) for c in own if c.rates]
        if not priced:
            raise BadRequest(f"No model of {provider.name} has a price here: name one.", "model")
        return min(priced)[-1]

    def _trials(self, provider: ProviderConfig, candidate: Candidate) -> Iterator[tuple[Dialect, Trial]]:
        """Give the trials of the dialects that a provider serves: of reranks for models that rank, else first those of
        its kind."""
        served = [each for each in self.dialects.all if each.name in provider.served]
        rates = candidate.rates
        ranks = _RERANKS in candidate.model or (rates is not None and "search" in rates.row.per_unit)
        first = _RERANKS if ranks and rates is not None and not writes(rates) else provider.kind
        for dialect in sorted(served, key=lambda each: (each.name != first, each.name != "openai")):
            for trial in dialect.trials:
                yield dialect, trial

    async def _tested(
        self, provider: ProviderConfig, configured: TargetConfig, number: int, asked: _Asked
    ) -> ProviderTestShape:
        health, circuit = asked.target.health, asked.target.health.state
        attempt, began_s = health.begin(), time.monotonic()
        answer = _Answer()
        try:
            async with asyncio.timeout(self.timeout_s):
                await _ask(self.transports[provider.name], asked, answer, began_s)
        except TimeoutError:
            answer.error, answer.advice = f"No whole answer within {self.timeout_s:g} s.", _advice_of_silence(provider)
        except UpstreamError as error:
            answer.error, answer.advice = str(error), _advice_of_error(error, provider)
        finally:
            if answer.is_sound:
                health.succeeded(attempt)
            else:
                health.abandoned(attempt)
        total_s = time.monotonic() - began_s
        scheme, host, port = configured.origin
        usage = None if answer.reported is None else answer.reported.total
        return ProviderTestShape(
            provider=provider.name,
            model=asked.candidate.entry,
            provider_model=asked.candidate.model,
            target=number,
            origin=f"{scheme}://{host}:{port}" if host else "",
            circuit=circuit,
            ok=answer.is_sound,
            status=answer.status,
            head_ms=_ms(answer.head_s),
            first_token_ms=_ms(answer.first_token_s),
            total_ms=round(total_s * 1000),
            input_tokens=None if usage is None else usage.input_tokens,
            output_tokens=None if usage is None else usage.output_tokens,
            cost_usd=_cost(asked.candidate, answer.reported),
            error=without_secrets(answer.error, configured)[_SHOWN[answer.ends_with_error]],
            advice=answer.advice or _advice(answer, circuit),
        )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _target(provider: ProviderConfig, match: Match, candidate: Candidate, number: int) -> Target | None:
    """Return a target by its number among all of the provider's; None where it does not serve the dialect."""
    targets = Target.all_of(provider, match, candidate.model, candidate.health)
    return next((each for each in targets if each.health is candidate.health[number]), None)


async def _ask(transport: Transport, asked: _Asked, answer: _Answer, began_s: float) -> None:
    """Send the request and read the answer. Raises `UpstreamError`."""
    request = asked.request()
    try:
        response = await transport.send(request)
    except asyncio.CancelledError:
        if request.pending is not None:
            request.pending.release()
        raise
    answer.status, answer.head_s = response.status, time.monotonic() - began_s
    try:
        kind = next((value.lower() for name, value in response.headers if name.lower() == b"content-type"), b"")
        if response.status == OK and asked.dialect.is_stream(asked.parsed, kind):
            await _watch(response, asked.dialect, kind, answer, began_s)
            return
        body = await response.read(MOST_ANSWER_BYTES)
    finally:
        response.release()
    if response.status != OK:
        answer.error = said(body)
        return
    try:
        answer.reported = asked.dialect.usage_from_json(asked.match.endpoint.operation, body)
    except GarbageAnswer as error:
        answer.error = f"The answer can't be read: {error}"


async def _watch(response: UpstreamResponse, dialect: Dialect, kind: bytes, answer: _Answer, began_s: float) -> None:
    """Read a stream. Raises `UpstreamError`."""
    tap, last = dialect.tap(kind, usage_added=True, include_cost=False), b""
    async for chunk in response.chunks():
        tap.feed(chunk)
        last = (last + chunk)[-MOST_KEPT:]
        if answer.first_token_s is None and tap.began_output:
            answer.first_token_s = time.monotonic() - began_s
    tap.end()
    answer.reported = tap.reported
    if tap.error_seen:
        answer.error, answer.ends_with_error = last.decode(errors="replace").strip(), True
    elif not tap.done:
        answer.error = "The stream broke off before its end."


def said(body: bytes) -> str:
    """Return what an error says: its message where it has one, in any of the shapes that providers use."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    if isinstance(found, list) and found:
        found = found[0]
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    if isinstance(found, str) and found:
        return found
    return body.decode(errors="replace").strip() or "The answer is empty."


def without_secrets(text: str, target: TargetConfig) -> str:
    """Return a text without the key, query string and header values of a target, whole or in part: the values of the
    query and the words of a header's value; and without how the key begins."""
    key = "" if target.api_key is None else target.api_key.reveal()
    secrets = {key, target.base_query, *target.headers.values()}
    secrets.update(value for _, value in parse_qsl(target.base_query))
    secrets.update(field.partition("=")[2] for field in target.base_query.split("&"))  # as they are written
    secrets.update(word for value in target.headers.values() for word in value.split())
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHOWN_OF_KEY:
            text = text.replace(secret, "[hidden]")
    if len(key) >= LONG_KEY:
        text = re.sub(rf"{re.escape(key[:SHOWN_OF_KEY])}\S*", "[hidden]", text)
    return text


def _cost(candidate: Candidate, reported: Reported | None) -> str | None:
    """Return what the provider bills, in USD; None where the model has no price, or no usage was reported."""
    if candidate.rates is None or reported is None:
        return None
    return format_usd(charge(reported.usage, candidate, 0, None, reported.model, reported).cost_nano)


def _advice(answer: _Answer, circuit: str) -> str:
    if answer.is_sound:
        if circuit != "closed":
            return "It answers: its circuit is closed now, and requests go there again."
        return "Nothing: it answers."
    status = answer.status
    if status in KEY_REFUSED:
        return _ADVICE_OF_KEY
    if status is None or status >= SERVER_ERROR or status == OK:
        return _FAILS
    return _ADVICE.get(status, _ADVICE[400])


def _advice_of_silence(provider: ProviderConfig) -> str:
    return (
        f"{provider.name} is slow, or silent: see its status page. `provider_test_s` says how long a test may take; "
        "requests go on to other targets and fallbacks after `attempt_timeout_s`."
    )


def _advice_of_error(error: UpstreamError, provider: ProviderConfig) -> str:
    match error:
        case UpstreamBusy():
            return "All connections to it are in use: wait, or raise `upstream_connections`."
        case UpstreamTimeout():
            return _advice_of_silence(provider)
    return f"Correct `base_url` of {provider.name}, or let this machine reach it: DNS, firewall, proxy, certificate."
