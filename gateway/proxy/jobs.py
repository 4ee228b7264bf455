"""A background job at its provider: which gateway works on it, the state that the provider reports, and the debit of
its usage."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from billing.ledger.debits import LAYOUT, PLAIN_LAYOUT, Debit
from billing.ledger.usage_columns import other_counts, total_usage
from billing.usage import Usage
from gateway.proxy.estimate import charge
from gateway.proxy.settlement.usage_anomalies import believed
from gateway.upstream.base import Transport, UpstreamRequest, UpstreamTimeout
from gateway.upstream.headers import outgoing

if TYPE_CHECKING:
    from billing.owned.jobs import Job
    from gateway.dialects.base import Match
    from gateway.dialects.facts import Reported
    from gateway.proxy.candidates import Candidate
    from gateway.proxy.routing import Router

OK: Final = 200
GONE: Final = frozenset({404, 410})
TAKEN_OVER: Final = "the gateway that held it was lost: polled by another"


@dataclass(frozen=True, slots=True)
class BackgroundRules:
    """How jobs are polled. Seconds, of which one answer may take `answer_s`; `most` are those of one process."""

    poll_s: float
    answer_s: float
    expiry_s: float
    most: int
    max_answer_bytes: int
    max_usage_factor: int


class JobProviders:
    """Asks the providers of jobs. `transports` are by provider name."""

    def __init__(self, transports: Mapping[str, Transport], router: Router, rules: BackgroundRules) -> None:
        self._transports = transports
        self._router = router
        self._rules = rules
        self._asking: set[asyncio.Timeout] = set()

    def drain_now(self) -> None:
        """Stop waiting for the answers that are asked for now."""
        for asking in self._asking:
            if not asking.expired():
                asking.reschedule(asyncio.get_running_loop().time())

    async def ask(self, job: Job, match: Match) -> tuple[int, bytes] | None:
        """Return status and body; None where the provider is not there. Raises `UpstreamError`, also where the answer
        takes too long, or this process stops."""
        asking = asyncio.timeout(self._rules.answer_s)
        try:
            async with asking:
                self._asking.add(asking)
                return await self._asked(job, match)
        except TimeoutError as error:
            raise UpstreamTimeout("the answer is not waited for any longer") from error
        finally:
            self._asking.discard(asking)

    async def _asked(self, job: Job, match: Match) -> tuple[int, bytes] | None:
        """Ask each target that may have the object. Raises `UpstreamError`."""
        route, transport = self._router.find(job.model, job.created_s), self._transports.get(job.provider)
        found: tuple[int, bytes] | None = None
        for each in () if route is None or transport is None else route.destinations(match):
            if each.candidate.provider.name != job.provider or transport is None:
                continue
            for target in each.targets:  # of which each may have a key, and so objects, of its own
                lines, account = outgoing((), target.fixed, job.debit.account_id), job.debit.account_id
                request = UpstreamRequest(target.url, lines, b"", method=match.endpoint.method, account=account)
                try:
                    answer = await transport.send(request)
                except asyncio.CancelledError:
                    if request.pending is not None:
                        request.pending.release()
                    raise
                try:
                    found = answer.status, await answer.read(self._rules.max_answer_bytes)
                finally:
                    answer.release()
                if found[0] not in GONE:
                    return found
        return found

    def candidate(self, job: Job) -> Candidate | None:
        """Return who works on a job, with the prices of its beginning; None where there are none, or it is no more
        here."""
        route = self._router.find(job.model, job.created_s)
        candidates = () if route is None else route.candidates
        found = next((each for each in candidates if each.provider.name == job.provider), None)
        return None if found is None or found.rates is None else found


def debit_of(job: Job, candidate: Candidate, reported: Reported, max_usage_factor: int) -> Debit:
    """Return the debit of what a job has used, by the prices of its beginning; the whole hold where that can't be told,
    or can't be true: it is far above the hold, and above a whole context window, which tools may bring."""
    held = job.debit
    if believed(candidate, reported) is None:
        return held
    tier = reported.service_tier or job.service_tier
    made = charge(reported.usage, candidate, held.markup_scaled, tier, reported.model, reported)
    window = charge(Usage(input_tokens=candidate.context_window or 0), candidate, held.markup_scaled, tier)
    if made.charged_nano > max_usage_factor * max(held.charged_nano, window.charged_nano):
        return held
    usage = total_usage(reported.usage, reported.others) if reported.others else reported.usage
    return msgspec.structs.replace(
        held,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        counts=other_counts(usage),
        cost_nano=made.cost_nano,
        charged_nano=made.charged_nano,
        price_id=made.price_id or held.price_id,
        multiplier=made.multiplier,
        estimated=False,
        status=OK,
        note=TAKEN_OVER,
        layout=PLAIN_LAYOUT if made.by_model is None else LAYOUT,
        by_model=made.by_model,
    )
