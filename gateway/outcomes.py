"""What a client is told in the place of a provider's answer, and how answers are counted."""

import logging
from dataclasses import replace

from billing.holds.hold import Hold, Settled, SettlementLost
from billing.money import format_usd
from gateway import refusals
from gateway.answers import BALANCE, UPSTREAM_REQUEST_ID
from gateway.call import Call
from gateway.exchange import CLIENT_GONE, Exchange
from gateway.metrics import Metrics
from gateway.records import Records
from gateway.refusals import Refusal
from gateway.settling import Settler
from gateway.upstream import UpstreamError

logger = logging.getLogger(__name__)


class Outcomes:
    """Refuses, and counts."""

    def __init__(self, settler: Settler, metrics: Metrics, records: Records) -> None:
        self._settler = settler
        self._metrics = metrics
        self._records = records

    def count(self, exchange: Exchange, status: int, code: str | None = None) -> None:
        """One answer; `code` is that of a refusal of ours."""
        self._metrics.request(exchange.endpoint, exchange.route.provider.name, status, exchange.parsed.stream)
        if self._records.log is not None and status != CLIENT_GONE:
            self._records.answered(exchange, status, code)

    def refuse(self, call: Call, exchange: Exchange, refusal: Refusal) -> None:
        """Answer with a refusal of ours."""
        self._metrics.refusal(refusal.code)
        self.count(exchange, refusal.status, refusal.code)
        self._records.refused_later(exchange, refusal)
        refusal.answer(call, exchange.request_id)

    async def failed(self, call: Call, exchange: Exchange, hold: Hold, error: Exception) -> None:
        """No usable answer, and no output has passed: give the hold back."""
        logger.info("request %s: %s: %s", hold.id, type(error).__name__, error)
        await self._settler.void(hold)
        self.refuse(call, exchange, uncharged(refusals.of_upstream(error), exchange, hold))

    def unsettled(self, call: Call, exchange: Exchange, error: SettlementLost) -> None:
        """Neither store could be told of the debit in time: the answer is withheld."""
        logger.error("request %s: %s", exchange.request_id, error)
        if call.begun and not call.unsent:
            call.abort()
        else:
            self.refuse(call, exchange, refusals.unsettled())

    def faulty(self, call: Call, exchange: Exchange) -> None:
        """A fault of ours after the provider had worked: the request is charged, and the client is not told else."""
        if call.begun and not call.unsent:
            call.abort()
        else:
            self.refuse(call, exchange, refusals.faulty())


def uncharged(refusal: Refusal, exchange: Exchange, hold: Hold) -> Refusal:
    """The same refusal with what the account has, now that its hold is given back, and the provider's request id."""
    sent = {BALANCE: format_usd(exchange.balance_before_nano(hold))}
    if exchange.upstream_request_id is not None:
        sent[UPSTREAM_REQUEST_ID] = exchange.upstream_request_id
    return replace(refusal, sent=sent)


def balance_nano(exchange: Exchange, hold: Hold, settled: Settled) -> int:
    """What the account has, holds taken off: as the settlement says it, else as admission left it."""
    if settled.available_nano is not None:
        return settled.available_nano
    return hold.available_nano - exchange.principal.credit_limit_nano


def upstream_error_of(failure: Exception | None, what: str) -> Exception:
    """What broke an answer; `what` where nothing did but it is none."""
    return failure if isinstance(failure, UpstreamError) else UpstreamError(what)
