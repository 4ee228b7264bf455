"""Responses in the background: held while the provider works, polled by us, paid once, whether or not a client returns.

The gateway that created a job has its hold and settles it. Where that gateway stops or dies, another one takes the job
over when its lease has lapsed, and pays it in the ledger (`billing.owned` owns that it is paid once). A job that
its provider does not know any more, or that is not done when it expires, costs what was held. One that was cancelled
may come without usage and output, whatever was read of it before: it costs its input and what its stream has passed;
where it could be read meanwhile, or its gateway was lost, what was held.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from billing.database.connection import DatabaseError, DatabaseUnavailable
from billing.holds.model import SettlementLost
from billing.ledger.debits import other_counts, total_usage
from billing.owned import BackgroundJobs, Job
from billing.usage import Usage
from billing.work import until_next_s
from gateway.dialects.base import Match
from gateway.dialects.body import GarbageAnswer
from gateway.dialects.output import NO_OUTPUT
from gateway.proxy.estimate import charge
from gateway.proxy.headers import outgoing
from gateway.proxy.settlement.usage_anomalies import believed
from gateway.server import refusals
from gateway.server.refusals import Refuse
from gateway.upstream.base import Transport, UpstreamError, UpstreamRequest, UpstreamTimeout

if TYPE_CHECKING:
    from billing.holds.model import Hold
    from billing.ledger.debits import Debit
    from billing.pending import Pending
    from gateway.config.defaults import Defaults, RequestSettings
    from gateway.dialects.base import Dialect, Tap
    from gateway.dialects.facts import Created, Creation, Reported, Stored
    from gateway.proxy.candidates import Candidate
    from gateway.proxy.context import RequestContext
    from gateway.proxy.routing import Router
    from gateway.proxy.settlement.settlements import Settlements


OK: Final = 200
GONE: Final = frozenset({404, 410})
TAKEN_OVER: Final = "the gateway that held it was lost: polled by another"


class JobProviders:
    """Asks the providers of jobs. `transports` are by provider name."""

    def __init__(self, transports: Mapping[str, Transport], router: Router, settings: RequestSettings) -> None:
        self._transports = transports
        self._router = router
        self._settings = settings
        self._asking: set[asyncio.Timeout] = set()

    def stop_waiting(self) -> None:
        """Stop waiting for the answers that are asked for now."""
        for asking in self._asking:
            if not asking.expired():
                asking.reschedule(asyncio.get_running_loop().time())

    async def ask(self, job: Job, match: Match) -> tuple[int, bytes] | None:
        """Return status and body; None where the provider is not there. Raises `UpstreamError`, also where the answer
        takes too long, or this process stops."""
        asking = asyncio.timeout(self._settings.max_request_s)
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
                    found = answer.status, await answer.read(self._settings.upstream_answer_bytes)
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
        by_model=made.by_model,
    )


logger = logging.getLogger(__name__)

# What is left of a job that reports no usage: an object with nothing in it, one that was cancelled before anything was
# in it, or nothing that its cost can be told by.
Left = Literal["nothing", "cancelled", "unknown"]
# Pays a job that is over, by what it reports or else by what is left of it; returns whether it is paid now.
End = Callable[["Reported | None", Left], Coroutine[Any, Any, bool]]
CLAIMED_AT_ONCE: Final = 100
NO_USAGE: Final = "no_usage"
# How long a client waits for the row of its job while Postgres is away.
KEEP_S: Final = 15.0


class BackgroundPoller:
    """Polls this process's jobs. `creations` tell of objects, by kind; `clock` is in Unix seconds."""

    def __init__(
        self,
        jobs: BackgroundJobs,
        providers: JobProviders,
        settlements: Settlements,
        creations: Mapping[str, tuple[Dialect, Creation]],
        defaults: Defaults,
        *,
        new_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._providers = providers
        self._settlements = settlements
        self._creations = creations
        self._settings, self._max_usage_factor = defaults.background, defaults.request.max_usage_factor
        self._new_id = new_id
        self._clock = clock
        self._following: dict[str, str] = {}
        """Accounts by request."""
        self._passing: dict[str, Job] = {}
        self._paid: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def check_room(self, account_id: str) -> None:
        """Raise `Refuse` where this process polls as many jobs as it may, or half as many of this account, and where
        Postgres does not answer: a job that can't be kept costs its hold, so that none is begun then."""
        followed, most = len(self._following), self._settings.background_jobs
        own = list(self._following.values()).count(account_id) if 2 * followed >= most else 0
        if followed >= most or 2 * own >= most:
            raise Refuse(refusals.unavailable("Too many background responses are running here: try again later."))
        try:
            await self._jobs.ping()
        except DatabaseError as error:
            raise Refuse(refusals.unavailable()) from error

    async def note_streamed(self, stored: Stored) -> None:
        """Note that a client streams an object again. Raises `Refuse`."""
        if stored.provider is None:
            return
        try:
            await self._jobs.note_streamed(stored.names[0], stored.provider)
        except DatabaseError as error:
            raise Refuse(refusals.unavailable()) from error

    async def begin(
        self, context: RequestContext, hold: Hold, created: Created, tap: Tap | None = None
    ) -> Coroutine[Any, Any, None]:
        """Keep a job, and return what follows it to its end; that must be run. `tap` has watched the stream that began
        it. Raises `DatabaseError`."""
        job = self._job(context, hold, created)
        await self._begun(job)
        hold.on_closed = None  # its client has its answer

        async def settle(reported: Reported | None, left: Left) -> bool:
            await self._settle(context, hold, reported, left, tap)
            return True

        return self._follow(job, settle, hold)

    async def keep(self, context: RequestContext, hold: Hold, created: Created) -> None:
        """Keep a job whose answer passes as a stream, until that is `paid`, or has `passed`. Raises `DatabaseError`."""
        job = self._job(context, hold, created)
        await self._begun(job)
        self._following[job.request_id] = job.debit.account_id
        self._passing[job.request_id] = job

    def paid(self, hold: Hold) -> None:
        """Note that the stream of a job has come to its end, and is settled."""
        job = self._passing.pop(hold.id, None)
        if job is not None:
            self._paid.append(job)

    def passed(self, hold: Hold) -> None:
        """Note that the stream of a job is over. Unless that has paid it, or it is begun now, whoever takes it over
        looks in the ledger what it came to."""
        if self._passing.pop(hold.id, None) is not None:
            self._following.pop(hold.id, None)

    async def _begun(self, job: Job) -> None:
        """Write a job's row. It is tried again for `KEEP_S`, because the provider works on it already. Raises
        `DatabaseError`."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + KEEP_S
        while True:
            try:
                return await self._jobs.begin(job)
            except DatabaseUnavailable:
                if clock() >= until_s or self._stopping.is_set():
                    raise
            await self._pause()

    def _job(self, context: RequestContext, hold: Hold, created: Created) -> Job:
        stored, now_s = context.parsed.stored, self._clock()
        assert stored is not None  # noqa: S101  (it was created because of it)
        assert stored.creation is not None  # noqa: S101
        return Job(
            object_id=created.object_id,
            provider=context.route.provider.name,
            kind=stored.creation.kind,
            model=context.parsed.model,
            service_tier=context.parsed.service_tier,
            request_id=context.request_id,
            later_id=self._new_id(),
            gateway_id=self._jobs.gateway_id,
            debit=context.unresolved(hold),
            created_s=now_s,
            expires_s=now_s + self._settings.background_expiry_s,
        )

    async def run(self, pending: Pending) -> None:
        """Take jobs over, again and again, that their gateways poll no more."""
        while not self._stopping.is_set():
            room = min(CLAIMED_AT_ONCE, self._settings.background_jobs - len(self._following))
            try:
                await self._tend()
                for job in await self._jobs.claim(room) if room > 0 and pending.work.jobs else ():
                    if job.request_id not in self._following:
                        task = asyncio.create_task(self._follow(job, self._payer(job), None))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
            except DatabaseError as error:
                logger.info("background jobs can't be looked for: %s", error)
            await self._pause(until_next_s(self._settings.background_poll_s))

    async def _tend(self) -> None:
        """Note which jobs their streams have paid, and keep those whose streams pass from being taken over."""
        while self._paid:
            await self._jobs.done(self._paid[0])
            self._following.pop(self._paid.popleft().request_id, None)
        for job in list(self._passing.values()):
            await self._jobs.renew(job)

    async def stop(self) -> None:
        """Leave all jobs to other gateways."""
        self._stopping.set()
        self._providers.stop_waiting()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _pause(self, seconds: float | None = None) -> None:
        try:
            async with asyncio.timeout(self._settings.background_poll_s if seconds is None else seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _follow(
        self,
        job: Job,
        end: End,
        hold: Hold | None,
    ) -> None:
        """Poll a job until it has ended, and is paid."""
        self._following[job.request_id] = job.debit.account_id
        try:
            while True:
                await self._pause()
                if self._stopping.is_set():
                    return await self._leave(job, hold)
                try:
                    if not await self._jobs.renew(job) and hold is None:
                        return None
                    if await self._poll_once(job, end):
                        return await self._jobs.done(job)
                except (DatabaseError, UpstreamError) as error:
                    logger.info("background job %s: %s", job.request_id, error)
        except SettlementLost as error:
            logger.error("background job %s: %s", job.request_id, error)
        finally:
            self._following.pop(job.request_id, None)

    async def _leave(self, job: Job, hold: Hold | None) -> None:
        """Leave a job to others; its hold is given back, because it ends with this process."""
        try:
            await self._jobs.release(job)
        except DatabaseError as error:
            logger.info("background job %s is left when its lease lapses: %s", job.request_id, error)
        if hold is not None:
            await self._settlements.void(hold)

    async def _poll_once(self, job: Job, end: End) -> bool:
        """Ask the provider; return whether the job is over and paid."""
        dialect, creation = self._creations[job.kind]
        try:
            polled = Match(dialect, creation.poll, {creation.parameter: job.object_id})
            answered = await self._providers.ask(job, polled)
        except UpstreamError:
            if self._clock() < job.expires_s or self._stopping.is_set():
                raise
            answered = None
        if answered is None or answered[0] in GONE:
            over = answered is not None or self._clock() >= job.expires_s
            return await end(None, "unknown") if over else False
        status, body = answered
        created = creation.of_answer(body) if status == OK else None
        if created is None or created.running:
            if created is not None and not dialect.output(body).empty:  # its client can read that, too
                await self._jobs.note_streamed(job.object_id, job.provider)
            if self._clock() < job.expires_s:
                return False
            if creation.cancel is not None:
                with suppress(UpstreamError):
                    await self._providers.ask(job, Match(dialect, creation.cancel, {creation.parameter: job.object_id}))
            return await end(None, "unknown")
        try:
            reported = creation.reported(body)
        except GarbageAnswer:
            return await end(None, "unknown") if self._clock() >= job.expires_s else False
        return await end(reported, await self._left(job, dialect, created, body))

    async def _left(self, job: Job, dialect: Dialect, created: Created, body: bytes) -> Left:
        """Return what is left of a job that is over. Raises `DatabaseError`."""
        output = dialect.output(body)
        if not output.known or not output.empty:
            return "unknown"
        if not created.cancelled:
            return "nothing"
        return "unknown" if await self._jobs.was_streamed(job) else "cancelled"

    async def _settle(
        self, context: RequestContext, hold: Hold, reported: Reported | None, left: Left, tap: Tap | None
    ) -> None:
        """End the hold of this process's own job."""
        settlements = self._settlements
        if not hold.is_open:
            return
        if (reported := believed(context.route, reported)) is not None:
            await settlements.complete(context, hold, settlements.reported(context, hold, reported))
        elif left == "unknown":
            await settlements.settle_whole(context, hold, NO_USAGE)
        elif tap is not None and tap.began_output:
            await settlements.estimated(context, hold, tap.output(), NO_USAGE, tap.extrapolate, tap.reported)
        elif left == "cancelled":
            await settlements.estimated(context, hold, NO_OUTPUT, NO_USAGE)
        else:
            await settlements.void(hold)

    def _payer(self, job: Job) -> End:
        """Return what pays a job of a gateway that is gone."""

        async def pay(reported: Reported | None, left: Left) -> bool:
            debit: Debit | None = job.debit
            candidate = None if reported is None else self._providers.candidate(job)
            if reported is not None and candidate is not None:
                debit = debit_of(job, candidate, reported, self._max_usage_factor)
            elif reported is None and left == "nothing":
                debit = None
            paid = await self._jobs.pay(job, debit)
            if paid and reported is not None and candidate is not None and debit is not job.debit:
                self._settlements.anomalies.note(candidate, reported)
            return paid

        return pay
