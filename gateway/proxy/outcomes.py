"""Outcomes: a refusal in the place of an answer that can't be given, and the count of all answers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from billing.holds.model import SettlementLost
from billing.money import format_usd
from gateway.dialects.output import Output
from gateway.proxy.attempts import KEY_REFUSED
from gateway.proxy.context import CLIENT_GONE, RequestContext
from gateway.server import refusals
from gateway.server.ids import (
    ATTEMPTS,
    BALANCE,
    MODEL,
    PROVIDER,
    REQUEST_ID,
    UPSTREAM_REQUEST_ID,
    balance_line,
    header_text,
)
from gateway.upstream.base import UpstreamBusy, UpstreamError, UpstreamResponse

if TYPE_CHECKING:
    from billing.holds.model import Hold, Settled
    from gateway.metrics.registry import Metrics
    from gateway.proxy.headers import ResponseHead
    from gateway.proxy.records import Records
    from gateway.proxy.settlement.settlements import Settlements
    from gateway.server.exchange import Exchange
    from gateway.server.refusals import Refusal


FIRST_ERROR: Final = 400
logger = logging.getLogger(__name__)


class Outcomes:
    """Refuses requests that were held, and counts answers."""

    def __init__(self, settlements: Settlements, metrics: Metrics, records: Records) -> None:
        self._settlements = settlements
        self._metrics = metrics
        self._records = records

    def count(self, context: RequestContext, status: int, code: str | None = None, *, goes_on: bool = False) -> None:
        """Count one answer; `code` is that of a refusal of ours. With `goes_on` its provider works on, and is paid
        later."""
        self._metrics.request(context.endpoint, context.route.provider.name, status, context.parsed.stream)
        if status >= FIRST_ERROR and context.charged is None and status != CLIENT_GONE and not goes_on:
            self._metrics.failed(context.route.entry, context.principal.plan.id)
        if context.trace is not None:
            context.trace.status, context.trace.error = status, code
        if self._records.log is not None and status != CLIENT_GONE:
            self._records.answered(context, status, code)

    def refuse(self, exchange: Exchange, context: RequestContext, refusal: Refusal) -> None:
        """Answer with a refusal of ours."""
        self._metrics.refusal(refusal.code)
        self.count(context, refusal.status, refusal.code)
        self._records.refused_later(context, refusal)
        refusal.answer(exchange, context.request_id)

    async def failed(self, exchange: Exchange, context: RequestContext, hold: Hold, error: Exception) -> None:
        """Give the hold back and refuse: there is no usable answer, and no output has passed."""
        busy = isinstance(error, UpstreamBusy)  # by our own bounds: the provider was not asked
        logger.log(logging.INFO if busy else logging.WARNING, "%s failed: %s", context.described, error)
        await self._settlements.void(hold)
        self.refuse(exchange, context, uncharged(refusals.of_upstream(error), context, hold))

    async def refused(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        max_bytes: int,
    ) -> None:
        """Give the hold back and pass on what the provider answered in place of a 200; of its body at most `max_bytes`
        are read."""
        try:
            if hold.state == "owed":
                hold.owe_nothing()
            if answer.status in KEY_REFUSED:  # not the client's fault, and nothing for it to read
                await self._settlements.refused(context, hold)
                self.refuse(exchange, context, uncharged(refusals.upstream_refuses_us(), context, hold))
            elif answer.status >= FIRST_ERROR:
                await self._pass_error(exchange, context, hold, answer, head, max_bytes)
            else:
                await self.failed(exchange, context, hold, UpstreamError(f"status {answer.status}"))
        finally:
            answer.release()

    async def _pass_error(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        max_bytes: int,
    ) -> None:
        """Pass on the provider's own refusal: unchanged, and free."""
        try:
            body = await answer.read(max_bytes)
        except UpstreamError as error:
            return await self.failed(exchange, context, hold, error)
        await self._settlements.refused(context, hold)
        self.count(context, answer.status)
        self._records.passed_on(context, answer.status)
        names = (REQUEST_ID, context.match.endpoint.id_header)
        ids = "".join(f"{name}: {context.request_id}\r\n" for name in names if name is not None)
        lines = ids.encode() + balance_line(context.balance_before_nano(hold))
        return exchange.answer(answer.status, head.lines + lines, body)

    async def too_large(self, exchange: Exchange, context: RequestContext, hold: Hold, limit_bytes: int) -> None:
        """Refuse an answer of more than is read whole. The provider has done its work: the client pays for it."""
        logger.warning("request %s: the answer is above upstream_answer_bytes", hold.id)
        try:
            await self._settlements.whole(context, hold, Output(known=False), "answer_too_large")
        except SettlementLost as error:
            return self.unsettled(exchange, context, error)
        return self.refuse(exchange, context, refusals.answer_too_large(limit_bytes))

    def lost(self, context: RequestContext, error: SettlementLost | None) -> None:
        """Log that neither store could be told of a debit in time."""
        logger.error("request %s: %s", context.request_id, error)

    def unsettled(self, exchange: Exchange, context: RequestContext, error: SettlementLost | None) -> None:
        """Withhold the answer, because neither store could be told of the debit in time."""
        self.lost(context, error)
        if exchange.begun and not exchange.unsent:
            exchange.abort()
        else:
            self.refuse(exchange, context, refusals.unsettled())

    def faulty(self, exchange: Exchange, context: RequestContext, error: Exception) -> None:
        """Refuse after a fault of ours while or after the provider worked: the request is charged, and the client reads
        so."""
        logger.error("request %s failed after it had been sent", context.request_id, exc_info=error)
        if exchange.begun and not exchange.unsent:
            exchange.abort()
        else:
            self.refuse(exchange, context, refusals.faulty())


class Unseen(Outcomes):
    """Outcomes that no client sees: holds end as they do else, and nothing is told or counted."""

    def count(self, context: RequestContext, status: int, code: str | None = None, *, goes_on: bool = False) -> None:
        """Count nothing."""

    def refuse(self, exchange: Exchange, context: RequestContext, refusal: Refusal) -> None:
        """Tell nobody."""

    async def _pass_error(
        self,
        exchange: Exchange,
        context: RequestContext,
        hold: Hold,
        answer: UpstreamResponse,
        head: ResponseHead,
        max_bytes: int,
    ) -> None:
        await self._settlements.refused(context, hold)


def uncharged(refusal: Refusal, context: RequestContext, hold: Hold) -> Refusal:
    """Return the refusal with what the account has, now that its hold is given back, and the provider's request id."""
    sent = {
        BALANCE: format_usd(context.balance_before_nano(hold)),
        PROVIDER: context.route.provider.name,
        MODEL: header_text(context.route.model),
        ATTEMPTS: str(context.attempts),
    }
    if context.upstream_request_id is not None:
        sent[UPSTREAM_REQUEST_ID] = context.upstream_request_id
    return replace(refusal, sent=sent)


def balance_nano(context: RequestContext, hold: Hold, settled: Settled) -> int:
    """Return what the account has, holds taken off, in nano-USD: by the settlement, else as admission left it."""
    if settled.available_nano is not None:
        return settled.available_nano
    return hold.available_nano - context.principal.credit_limit_nano


def upstream_error_of(failure: Exception | None, what: str) -> Exception:
    """Return what broke an answer, or an error that says `what` where it ended by itself without being one."""
    return failure if isinstance(failure, UpstreamError) else UpstreamError(what)
