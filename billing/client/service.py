"""The calls of a service (`/api/service`), one method each, with typed answers; and a hold that a block of code has.

Each is made again, under the same `event_id`, where it is unreachable, answered 5xx, or refused for something that
passes (`billing.client.errors`), as often and as long as `Retries` says. An `event_id` that is left out is made here,
once for all tries. Who repeats a call by hand, after `Unreachable`, gives the same one again: it is charged once.

A hold is settled in its block, or given back at its end. What may have been settled is never given back: where nobody
can tell what came of a settlement, it is settled again by whoever calls `settle` again, which is harmless, or the hold
is left to expire.

What a model's answer says that it used, as a service reports it. Pure.

OpenAI's chat (https://platform.openai.com/docs/api-reference/chat/object) counts `prompt_tokens`, cached ones among
them; its Responses API `input_tokens`, in the same way; Anthropic (https://docs.anthropic.com/en/api/messages) counts
cached and written input beside `input_tokens`; Gemini (https://ai.google.dev/api/generate-content#UsageMetadata) counts
thoughts beside the candidates.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import Raw
from ulid import ULID

from billing.api.operation import Access, Operation
from billing.api.operations import ServiceOperations
from billing.client.calls import BillingCalls, ClientAccess
from billing.client.errors import (
    ATTEMPTS,
    PASSING,
    BadAnswer,
    ClientError,
    Refused,
    Retries,
    Unreachable,
    is_unsure,
    passes,
)
from billing.schemas.service import (
    AskedOfKey,
    CheckShape,
    DebitShape,
    Giving,
    HoldShape,
    KeyAsked,
    KeyCheckShape,
    NewDebit,
    NewHold,
    NewUsage,
    Settlement,
    UsageResults,
)
from billing.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from billing.schemas.usage import BalanceShape

A = TypeVar("A")

DEFAULT_RETRIES: Final = Retries()
# What an account is refused with that has no room for something.
NO_ROOM: Final = frozenset(("billing_required", "quota_exceeded", "capacity_held", "concurrency_exceeded"))
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Counts(TypedDict, total=False):
    """How much: an amount as a decimal string of USD, a quantity of a meter, or tokens of a model."""

    amount_usd: str
    quantity: int | str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int


class Measured(Counts, total=False):
    """How much of what, for whom."""

    meter: str
    provider: str
    model: str
    feature: str
    user_id: str
    tags: dict[str, str]


class MeasuredOfKey(Measured, total=False):
    """And for which of the account's API keys, in whose quotas it counts, too."""

    key_id: str


def encoded(event: NewUsage) -> Raw:
    """Return an event in JSON. Text that is no Unicode (lone surrogates) is escaped: the gateway then refuses this
    event alone."""
    try:
        return Raw(msgspec.json.encode(event))
    except UnicodeEncodeError:
        return Raw(json.dumps(msgspec.to_builtins(event)).encode())


def new_event_id() -> str:
    """Return an id for an event, of our own."""
    return str(ULID())


class ServiceAccess(ClientAccess, total=False):
    """By what a client gets in, also as a service, and how often it tries."""

    service_key: str | None
    service_name: str | None
    retries: Retries


class OfModel(TypedDict, total=False):
    """For whom and for what a model's answer was, beside the account."""

    feature: str
    user_id: str | None
    key_id: str | None
    tags: Mapping[str, str] | None


class ServiceCalls(BillingCalls, ABC):
    """Calls one gateway as a service: with `service_key` (SERVICE_API_KEY) under `service_name`. Raises `ValueError`
    for a name that is none, and for one without the other.

    Raises from every call `Refused`, `Unreachable` and `BadAnswer`, and `RuntimeError` without a service key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        service_key: str | None = None,
        service_name: str | None = None,
        retries: Retries = DEFAULT_RETRIES,
        **access: Unpack[ClientAccess],
    ) -> None:
        super().__init__(base_url, **access)
        if (service_key is None) != (service_name is None):
            raise ValueError("a service has both service_key and service_name")
        if service_name is not None and _NAME.fullmatch(service_name) is None:
            raise ValueError("service_name is 1 to 64 letters, digits, `_`, `.` and `-`")
        self.service_name = service_name
        self.retries = retries
        self._service_headers: Mapping[str, str] | None = None
        if service_key is not None and service_name is not None:  # alone: with `Authorization` beside them they are 401
            identity = {"X-API-Key": service_key, "X-Service-Name": service_name}
            self._service_headers = {"Accept": "application/json", **identity}

    async def account_balance(self, account_id: str) -> BalanceShape:
        """Return what an account has left."""
        return await self._service(ServiceOperations.account_balance, account_id)

    async def check(self, account_id: str, **measure: Unpack[MeasuredOfKey]) -> CheckShape:
        """Ask whether a hold of this would be granted now. Raises `Refused` as a hold would be; what passes is not
        waited for."""
        return await self._service(
            ServiceOperations.check, body=AskedOfKey(account_id=account_id, **measure), codes=ATTEMPTS
        )

    async def within_quota(self, account_id: str, **measure: Unpack[MeasuredOfKey]) -> bool:
        """Return whether the account's balance and quotas, and those of a key that is named, have room for this now.
        Raises as every call, but for a refusal that says so."""
        try:
            return (await self.check(account_id, **measure)).allowed
        except Refused as error:
            if error.code in NO_ROOM:
                return False
            raise

    async def debit(
        self, account_id: str, *, event_id: str | None = None, **measure: Unpack[MeasuredOfKey]
    ) -> DebitShape:
        """Charge an account, if it has room for it."""
        body = NewDebit(account_id=account_id, event_id=event_id or new_event_id(), **measure)
        return await self._service(ServiceOperations.debit, body=body)

    async def record_now(self, event: NewUsage) -> DebitShape:
        """Charge an account for usage, whatever its balance."""
        results = await self._service(ServiceOperations.record, body=encoded(event))
        found = results.data[0].debit if len(results.data) == 1 else None
        if found is None:
            raise self._strange("usage: no debit for the event")
        return found

    async def record_batch(self, events: Sequence[NewUsage]) -> UsageResults:
        """Charge accounts for what they have used: at most 1,000 events, with a result for each, in their order."""
        body = {"events": [encoded(event) for event in events]}
        results = await self._service(ServiceOperations.record, body=body)
        return self._of_each(events, results)

    async def send_once(self, events: Sequence[bytes]) -> UsageResults:
        """Send events in JSON as `record_batch` does, and try once."""
        body = {"events": [Raw(each) for each in events]}
        return self._of_each(events, await self._once(ServiceOperations.record, body=body, within_s=self.timeout_s))

    def _of_each(self, events: Sequence[object], results: UsageResults) -> UsageResults:
        if [each.index for each in results.data] != list(range(len(events))):
            raise self._strange("usage: not a result for each event")
        return results

    async def create_hold(
        self,
        account_id: str,
        *,
        event_id: str | None = None,
        expires_in_s: int | None = None,
        **measure: Unpack[Measured],
    ) -> HoldShape:
        """Hold what something may cost at most. `Client.hold` also ends it."""
        name = event_id or new_event_id()
        body = NewHold(account_id=account_id, event_id=name, expires_in_s=expires_in_s, **measure)
        return await self._service(ServiceOperations.create_hold, body=body)

    async def service_hold(self, hold_id: str) -> HoldShape:
        """Return a hold as it is now."""
        return await self._service(ServiceOperations.service_hold, hold_id)

    async def settle_hold(
        self, hold_id: str, *, event_id: str | None = None, provider: str | None = None, **counts: Unpack[Counts]
    ) -> HoldShape:
        """Turn a hold into a debit of what was used; `provider` is the model's, where the hold named none."""
        body = Settlement(event_id=event_id, provider=provider, **counts)
        return await self._service(ServiceOperations.settle_hold, hold_id, body=body)

    async def void_hold(self, hold_id: str, *, event_id: str | None = None) -> HoldShape:
        """Give a hold back."""
        return await self._service(ServiceOperations.void_hold, hold_id, body=Giving(event_id=event_id))

    async def check_key(self, secret: str, *, retries: Retries | None = None) -> KeyCheckShape:
        """Look up an API key: `active` says whether it may be used now."""
        return await self._service(ServiceOperations.check_key, body=KeyAsked(key=secret), retries=retries)

    async def call(self, operation: Operation[..., A], *ids: str, **fields: Any) -> A:
        """Carry a call of an operation, again where it is a service's and that may help: see `Retries`."""
        if operation.who is not Access.service:
            return await super().call(operation, *ids, **fields)
        _, body = operation.asked(fields)
        return await self._service(operation, *ids, body=body)

    async def _service(
        self,
        operation: Operation[..., A],
        *ids: str,
        body: object = None,
        codes: Set[str] = PASSING,
        retries: Retries | None = None,
    ) -> A:
        """Make a call of a service, again where that may help: see `Retries`."""
        retries, clock = retries or self.retries, asyncio.get_running_loop().time
        ends_s = clock() + retries.total_s
        for tried in range(1, retries.attempts + 1):
            try:
                return await self._once(operation, *ids, body=body, within_s=ends_s - clock())
            except ClientError as error:
                wait_s = retries.wait_s(error, tried, random.random())  # noqa: S311  (it spreads tries, and is no secret)
                if tried == retries.attempts or not passes(error, codes) or clock() + wait_s >= ends_s:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("it returns, or raises")

    async def _once(self, operation: Operation[..., A], *ids: str, body: object, within_s: float) -> A:
        """Make a call once. Raises `ClientError`."""
        headers = self._service_headers
        if headers is None:
            raise RuntimeError("this client has no service_key, which the calls of services need")
        try:
            async with asyncio.timeout(within_s):
                return await self._answered(operation, operation.path_of(*ids), {}, body, headers)
        except TimeoutError as error:
            raise Unreachable(self.base_url, f"no answer within {within_s:.3g} s") from error

    def _strange(self, why: str) -> BadAnswer:
        return BadAnswer(self.base_url, why)


logger = logging.getLogger(__name__)


class HeldOpen:
    """An open hold; `shape` is as the gateway said last."""

    def __init__(self, calls: ServiceCalls, shape: HoldShape) -> None:
        self._calls = calls
        self.shape = shape
        self._maybe_settled = False
        self._settling: asyncio.Task[HoldShape] | None = None

    @property
    def id(self) -> str:
        """Return the hold's id, which is that of its debit."""
        return self.shape.id

    async def settle(self, *, provider: str | None = None, **counts: Unpack[Counts]) -> HoldShape:
        """Charge what was used, and give the rest back. The same again is charged once. Raises as every call; after
        `Refused` the hold is open, and otherwise it may be settled. Where its caller is cancelled it goes on, and the
        end of the block waits for it."""
        self._settling = asyncio.ensure_future(self._settle(provider, counts))
        return await asyncio.shield(self._settling)

    async def _settle(self, provider: str | None, counts: Counts) -> HoldShape:
        unsure_before, self._maybe_settled = self._maybe_settled, True
        try:
            self.shape = await self._calls.settle_hold(self.id, provider=provider, **counts)
        except ClientError as error:
            self._maybe_settled = unsure_before or is_unsure(error)
            raise
        return self.shape

    async def void(self) -> HoldShape:
        """Give the hold back. Raises as every call."""
        self.shape = await self._calls.void_hold(self.id)
        return self.shape

    async def close(self) -> None:
        """Give back what is not settled. It raises nothing: a hold that is not given back expires by itself."""
        if self._settling is not None:
            await asyncio.wait([self._settling])
            _ = self._settling.cancelled() or self._settling.exception()  # retrieved here: its caller may be cancelled
        if self.shape.state != "held":
            return
        if self._maybe_settled:
            logger.warning("nobody can tell whether the hold %s is settled: else it expires", self.id)
            return
        giving = asyncio.ensure_future(self._give_back())
        try:
            await asyncio.shield(giving)
        except asyncio.CancelledError:
            await asyncio.wait([giving])
            raise

    async def _give_back(self) -> None:
        try:
            await self.void()
        except ClientError as error:
            logger.warning("the hold %s is not given back, and expires by itself: %s", self.id, error)


TokensUsed = Usage | Mapping[str, Any] | object
# What of a `Usage` a service can report. Reasoning is a part of output, and is charged as such.
CARRIED: Final = frozenset(
    ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "requests")
)


def tokens_used(usage: TokensUsed) -> Measured:
    """Return the counts of an answer. Raises `ValueError` for what is no usage, or has counts that a service's event
    can't carry and that would be charged too low."""
    if isinstance(usage, Usage):
        return _of_usage(usage)
    if _count(usage, "promptTokenCount", "prompt_token_count") is not None:
        return _of_gemini(usage)
    names = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
    input_tokens, output_tokens = (_count(usage, *each) for each in names)
    if input_tokens is None and output_tokens is None:
        raise ValueError("this is no usage of a model: it has neither input_tokens nor prompt_tokens")
    beside, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    if beside is not None or written is not None:
        return _counts((input_tokens or 0) + (beside or 0) + (written or 0), beside, written, output_tokens)
    details = _get(usage, "prompt_tokens_details") or _get(usage, "input_tokens_details")
    cached = None if details is None else _count(details, "cached_tokens")
    return _counts(input_tokens, cached, None, output_tokens)


def _of_usage(usage: Usage) -> Measured:
    other = [name for name in Usage.__struct_fields__ if name not in CARRIED and getattr(usage, name)]
    if other:
        raise ValueError(f"a service's event has no {', '.join(other)}: name amount_usd, or a meter")
    return _counts(usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.output_tokens)


def _of_gemini(usage: object) -> Measured:
    output = (_count(usage, "candidatesTokenCount", "candidates_token_count") or 0) + (
        _count(usage, "thoughtsTokenCount", "thoughts_token_count") or 0
    )
    tools = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count") or 0
    prompt = _count(usage, "promptTokenCount", "prompt_token_count") or 0
    cached = _count(usage, "cachedContentTokenCount", "cached_content_token_count")
    return _counts(prompt + tools, cached, None, output)


def _counts(input_tokens: int | None, cached: int | None, written: int | None, output: int | None) -> Measured:
    return {
        "input_tokens": input_tokens or 0,
        "cached_input_tokens": cached or 0,
        "cache_write_tokens": written or 0,
        "output_tokens": output or 0,
    }


def _get(usage: object, name: str) -> Any:
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)


def _count(usage: object, *names: str) -> int | None:
    """Return the first of these counts that is there. Raises `ValueError` for one that is no count."""
    for name in names:
        value = _get(usage, name)
        if value is None:
            continue
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is no count of tokens")
        return value
    return None
