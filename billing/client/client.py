"""The client: the calls of `billing.client.calls` and `billing.client.service` on connections that it keeps.

async with Client("https://gateway.example.com", service_key=key, service_name="containers") as client:
    if await client.within_quota(account_id, meter="container.second", quantity=60):
        ...
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self, Unpack, cast

import aiohttp

from billing.client.calls import ANSWER_LIMIT_BYTES
from billing.client.errors import BadAnswer, ClientError, Exchanged, Refused, Unreachable
from billing.client.recorder import EventSpool, Recorder, Spooled, SpoolRules
from billing.client.service import (
    HeldOpen,
    Measured,
    MeasuredOfKey,
    OfModel,
    ServiceAccess,
    ServiceCalls,
    TokensUsed,
    encoded,
    new_event_id,
    tokens_used,
)
from billing.schemas.service import DebitShape, HoldShape, NewUsage
from billing.times import rfc3339

logger = logging.getLogger(__name__)

OnError = Literal["raise", "spool"]


class Client(ServiceCalls):
    """Calls one gateway's billing API, within its `async with`, as `BillingCalls` and `ServiceCalls` say.

    With `unix_socket` the connection goes there and `base_url` only names it. With `spool` events may be recorded in
    the background; the `async with` raises OSError where its folder can't be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        spool: SpoolRules | None = None,
        unix_socket: str | None = None,
        **access: Unpack[ServiceAccess],
    ) -> None:
        super().__init__(base_url, **access)
        if spool is not None and self.service_name is None:
            raise ValueError("a spool is a service's: give service_key and service_name, too")
        self._spool = spool
        self._recorder: Recorder | None = None
        self._unix_socket = unix_socket
        self._session: aiohttp.ClientSession | None = None
        self._behind: set[asyncio.Task[None]] = set()
        """What gives holds back whose callers were cancelled."""

    async def __aenter__(self) -> Self:
        connector = None if self._unix_socket is None else aiohttp.UnixConnector(self._unix_socket)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        if self._spool is not None:
            try:
                spool = EventSpool(self._spool, self.base_url, self.service_name or "", new_event_id)
                self._recorder = Recorder(spool, self._spool, self.send_once)
                await self._recorder.open()
            except BaseException:
                await self._session.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._behind:
                await asyncio.wait(self._behind, timeout=self.timeout_s)
            if self._recorder is not None:
                await self._recorder.close()
        finally:
            if self._session is not None:
                await self._session.close()

    @property
    def spooled(self) -> Spooled:
        """Return what has come of the events that were recorded with `on_error="spool"`."""
        return self._with_spool().counts

    async def record(
        self,
        account_id: str,
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        on_error: OnError = "raise",
        **measure: Unpack[MeasuredOfKey],
    ) -> DebitShape | None:
        """Record what an account has used, at `time` or now, whatever its balance.

        With `on_error="raise"` it is charged when this returns, which raises as every call. With "spool" nothing is
        ever raised into the caller: the event is on disk when this returns, with its time, and is delivered in the
        background. Where the disk does not take it, it is sent at once; where that fails, too, it is counted as lost,
        and the log names it.
        """
        if on_error == "raise":
            at = None if time is None else rfc3339(time)
            name = event_id or new_event_id()
            return await self.record_now(NewUsage(account_id=account_id, event_id=name, time=at, **measure))
        recorder = self._with_spool()
        name = event_id or new_event_id()
        try:
            at = rfc3339(time or datetime.now(UTC))
            event = NewUsage(account_id=account_id, event_id=name, time=at, **measure)
            await self._keep(recorder, event)
        except Exception as error:
            recorder.lost(str(name), error)
        return None

    async def _keep(self, recorder: Recorder, event: NewUsage) -> None:
        """Have an event on disk, or else charged. Raises where neither could be."""
        try:
            await recorder.add(bytes(encoded(event)))
        except OSError as error:
            logger.warning("the spool does not take an event, which is sent at once: %s", error)
            try:
                await self.record_now(event)
            except ClientError as failed:
                raise OSError(f"{error}; {failed}") from failed
            except asyncio.CancelledError:
                recorder.lost(event.event_id, "its caller was cancelled while it was sent")
                raise

    async def record_llm(
        self,
        account_id: str,
        provider: str,
        model: str,
        usage: TokensUsed,
        *,
        event_id: str | None = None,
        on_error: OnError = "raise",
        **of: Unpack[OfModel],
    ) -> DebitShape | None:
        """Record what a model's answer used, at its price: `usage` is a `Usage`, or what OpenAI, Anthropic or Gemini
        report, as a mapping or an object. As `record`, of whose failures one is a usage that can't be read."""
        try:
            measure = cast("MeasuredOfKey", tokens_used(usage))
            given = {name: value for name, value in of.items() if value is not None}
            given = {"feature": "llm", **given, "tags": dict(of.get("tags") or {})}
            measure.update({"provider": provider, "model": model, **given})  # type: ignore[typeddict-item]
        except Exception as error:  # whatever an object does that is asked for its counts
            if on_error == "raise":
                raise
            self._with_spool().lost(event_id or f"of {account_id}, {provider}/{model}", error)
            return None
        return await self.record(account_id, event_id=event_id, on_error=on_error, **measure)

    async def retry_parked(self) -> int:
        """Record the events again that the gateway had refused for good, once what was wrong is mended; return how
        many. Raises OSError."""
        return await self._with_spool().retry_parked()

    @asynccontextmanager
    async def hold(
        self,
        account_id: str,
        *,
        event_id: str | None = None,
        expires_in_s: int | None = None,
        **measure: Unpack[Measured],
    ) -> AsyncIterator[HeldOpen]:
        """Hold what something may cost at most, for the length of the block, which settles it: what is left unsettled
        at its end is given back, also where it raises. Raises `Refused` where the account has no room, and before the
        block where the hold of this `event_id` is settled or given back already. Of a caller that is cancelled while
        the hold is made it is given back, too, but for one with an `event_id`: who has that can ask for the same hold
        again."""
        making = asyncio.ensure_future(
            self.create_hold(account_id, event_id=event_id, expires_in_s=expires_in_s, **measure)
        )
        try:
            made = await asyncio.shield(making)
        except asyncio.CancelledError:
            if event_id is None:
                giving = asyncio.create_task(self._give_back(making))
                self._behind.add(giving)
                giving.add_done_callback(self._behind.discard)
            else:
                making.cancel()
            raise
        held = HeldOpen(self, made if event_id is None else await self._unless_ended(made))
        try:
            yield held
        finally:
            await held.close()

    async def _unless_ended(self, made: HoldShape) -> HoldShape:
        """Return a hold as it is now: the first answer to its event says that it is open, even after its end. Raises
        `Refused` for one that nothing can be charged by any more."""
        shape = await self.service_hold(made.id)
        if shape.state in ("settled", "voided"):
            code = "idempotency_conflict"
            message = f"The hold of the event_id {made.event_id!r} is {shape.state} already: use another event_id."
            raise Refused(409, code, message, {"code": code, "message": message})
        return shape

    async def _give_back(self, making: asyncio.Task[HoldShape]) -> None:
        """Give a hold back that nobody waits for."""
        try:
            await HeldOpen(self, await making).close()
        except ClientError as error:
            logger.warning("a hold whose caller was cancelled may have been made, and expires by itself: %s", error)

    def _with_spool(self) -> Recorder:
        if self._recorder is None:
            raise RuntimeError("this client has no spool, or is used outside its context")
        return self._recorder

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Exchanged:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        try:
            async with self._session.request(
                method, self.base_url + target, data=body, headers=headers, allow_redirects=False
            ) as response:
                received = {name.lower(): text for name, text in response.headers.items()}
                return Exchanged(response.status, received, await self._received(response))
        except TimeoutError as error:
            raise Unreachable(self.base_url, f"no answer within {self.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(self.base_url, _why(error)) from error

    async def _received(self, response: aiohttp.ClientResponse) -> bytes:
        received = bytearray()
        async for chunk in response.content.iter_any():
            received += chunk
            if len(received) > ANSWER_LIMIT_BYTES:
                raise BadAnswer(self.base_url, f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
        return bytes(received)


def _why(error: aiohttp.ClientError | OSError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
    return "the connection broke"
