"""What a client is told in the place of a provider's answer, and how answers are counted."""

import logging
from dataclasses import replace

from billing.holds.hold import Hold, Settled, SettlementLost
from billing.money import format_usd
from gateway.metrics.registry import Metrics
from gateway.proxy.context import CLIENT_GONE, RequestContext
from gateway.proxy.records import Records
from gateway.proxy.settlement import Settlements
from gateway.server import refusals
from gateway.server.exchange import Exchange
from gateway.server.metering_headers import BALANCE, UPSTREAM_REQUEST_ID
from gateway.server.refusals import Refusal
from gateway.upstream.base import UpstreamError

logger = logging.getLogger(__name__)


class Outcomes:
    """Refuses, and counts."""

    def __init__(self, settler: Settlements, metrics: Metrics, records: Records) -> None:
        self._settler = settler
        self._metrics = metrics
        self._records = records

    def count(self, context: RequestContext, status: int, code: str | None = None) -> None:
        """One answer; `code` is that of a refusal of ours."""
        self._metrics.request(context.endpoint, context.route.provider.name, status, context.parsed.stream)
        if self._records.log is not None and status != CLIENT_GONE:
            self._records.answered(context, status, code)

    def refuse(self, exchange: Exchange, context: RequestContext, refusal: Refusal) -> None:
        """Answer with a refusal of ours."""
        self._metrics.refusal(refusal.code)
        self.count(context, refusal.status, refusal.code)
        self._records.refused_later(context, refusal)
        refusal.answer(exchange, context.request_id)

    async def failed(self, exchange: Exchange, context: RequestContext, hold: Hold, error: Exception) -> None:
        """No usable answer, and no output has passed: give the hold back."""
        logger.info("request %s: %s: %s", hold.id, type(error).__name__, error)
        await self._settler.void(hold)
        self.refuse(exchange, context, uncharged(refusals.of_upstream(error), context, hold))

    def unsettled(self, exchange: Exchange, context: RequestContext, error: SettlementLost) -> None:
        """Neither store could be told of the debit in time: the answer is withheld."""
        logger.error("request %s: %s", context.request_id, error)
        if exchange.begun and not exchange.unsent:
            exchange.abort()
        else:
            self.refuse(exchange, context, refusals.unsettled())

    def faulty(self, exchange: Exchange, context: RequestContext) -> None:
        """A fault of ours after the provider had worked: the request is charged, and the client is not told else."""
        if exchange.begun and not exchange.unsent:
            exchange.abort()
        else:
            self.refuse(exchange, context, refusals.faulty())


def uncharged(refusal: Refusal, context: RequestContext, hold: Hold) -> Refusal:
    """The same refusal with what the account has, now that its hold is given back, and the provider's request id."""
    sent = {BALANCE: format_usd(context.balance_before_nano(hold))}
    if context.upstream_request_id is not None:
        sent[UPSTREAM_REQUEST_ID] = context.upstream_request_id
    return replace(refusal, sent=sent)


def balance_nano(context: RequestContext, hold: Hold, settled: Settled) -> int:
    """What the account has, holds taken off: as the settlement says it, else as admission left it."""
    if settled.available_nano is not None:
        return settled.available_nano
    return hold.available_nano - context.principal.credit_limit_nano


def upstream_error_of(failure: Exception | None, what: str) -> Exception:
    """What broke an answer; `what` where nothing did but it is none."""
    return failure if isinstance(failure, UpstreamError) else UpstreamError(what)
