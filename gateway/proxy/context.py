"""One request on its way: what is known of it so far, and the debit that it becomes. Pure: the clock is passed in.

Facts are what is the same for all requests of a key for a model at an endpoint: made with the first of them, kept with
the principal. This file owns how long they hold. A principal is made anew when its account, key or plan changes, and
what was kept with it goes. A route is made anew when another price row or configuration is in force: facts are those of
one route, compared at each use, and are made again for another. That the key may use the model at all is decided before
its terms are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from billing.ledger.debits import LAYOUT, Debit, other_counts
from billing.principals import MAX_KEPT, Principal
from billing.usage import Usage
from gateway.dialects.base import Match
from gateway.dialects.facts import ParsedRequest, Reported
from gateway.proxy.candidates import Candidate, Destination, Target
from gateway.proxy.estimate import Charge, Plain, charge, markup_of
from gateway.proxy.provider_tools import most_granted
from gateway.proxy.senders import NOBODY, Sender
from gateway.tracing.trace import Trace
from gateway.upstream.base import UpstreamRequest

if TYPE_CHECKING:
    from billing.holds.model import AdmissionTarget, Hold
    from gateway.config.defaults import EstimateSettings
    from gateway.proxy.candidates import Route


class Granted(NamedTuple):
    """What a hold has bounded and the client did not: output tokens, and calls of tools at the provider; None of what
    the client did."""

    output_tokens: int | None
    tool_calls: int | None


class Terms:
    """A key's terms on a route, for one of its candidates. `rules` are those of its estimates; `tags` as the ledger
    keeps them, `markup_scaled` the markup that applies; `plain` bounds plain requests, None where the candidate has
    none; `uncharged` are debits of holds that are not charged when their gateway dies, encoded, by whether the answer
    is a stream."""

    __slots__ = ("candidate", "markup_scaled", "plain", "plan_markup_scaled", "route", "rules", "tags", "uncharged")

    def __init__(self, principal: Principal, route: Route, candidate: Candidate, rules: EstimateSettings) -> None:
        self.route = route
        self.candidate = candidate
        self.tags = tags_of(principal)
        self.plan_markup_scaled = principal.plan.markup_of(candidate.entry)
        self.markup_scaled = markup_of(candidate, self.plan_markup_scaled)
        own, plan = principal.default_tool_calls, principal.plan.default_tool_calls
        self.rules = rules.granting(own, plan, candidate.default_tool_calls)
        self.plain = Plain.of(candidate, self.markup_scaled, rules)
        self.uncharged: dict[bool, bytes] = {}

    def passes_as_it_is(self, parsed: ParsedRequest, candidate: Candidate, field: str) -> bool:
        """Return whether nothing of a whole answer's request is changed for a provider that takes a maximum in `field`:
        see `provider_body`, which changes less often than this says."""
        most, plain = parsed.max_output_tokens, self.plain
        return (
            plain is not None
            and candidate is self.candidate
            and not parsed.stream
            and most is not None
            and most <= plain.window
            and field in parsed.max_fields
            and candidate.model == parsed.model
            and parsed.model_in_body
        )


class Facts:
    """A key's facts of a model at an endpoint: who of the `route` serves that, the `terms` by the names of
    destinations, and the `target` of holds, each made when it is first asked for."""

    __slots__ = ("destinations", "route", "target", "terms")

    def __init__(self, route: Route, destinations: tuple[Destination, ...]) -> None:
        self.route = route
        self.destinations = destinations
        self.terms: dict[str, Terms] = {}
        self.target: AdmissionTarget | None = None


def keep_facts(principal: Principal, kept_as: tuple[str, ...], facts: Facts) -> None:
    """Keep facts for further requests; of others at most `MAX_KEPT` are kept. They hold for the `route` that they name,
    and no longer."""
    if len(principal.kept) >= MAX_KEPT:
        principal.kept.clear()
    principal.kept[kept_as] = facts


def tags_of(principal: Principal) -> str | None:
    """Return a key's tags as the ledger keeps them."""
    return msgspec.json.encode(dict(principal.tags)).decode() if principal.tags else None


FEATURE: Final = "llm"
# The speed of a request that asks for a dearer one and whose answer names none.
FAST: Final = "fast"
# Why a usage is not the provider's own count, or its answer not whole; the note of its debit.
Reason = Literal[
    "client_gone",
    "client_stalled",
    "max_request_s",
    "upstream_cut",
    "no_usage",
    "implausible_usage",
    "answer_too_large",
    "internal_error",
    "hold_closed",
    "shutting_down",
    "tool_overrun",
]
# What the debit says as its status where the client has not got a whole answer, as metrics count it: 499 is a client
# that left or had to be left, which nobody receives.
CUT_STATUS: Final[Mapping[Reason, int]] = {
    "client_gone": 499,
    "client_stalled": 499,
    "max_request_s": 504,
    "upstream_cut": 502,
    "answer_too_large": 502,
    "tool_overrun": 502,
    "internal_error": 502,
    "hold_closed": 503,
    "shutting_down": 503,
}
MAX_FOREIGN_ID: Final = 200
EXPIRED_STATUS: Final = 0
# The status by which a request is counted after its client has left; it is not sent.
CLIENT_GONE: Final = 499
NOTHING: Final = Usage()
FREE: Final = Charge(0, 0, None)


class RequestContext(msgspec.Struct, gc=False):
    """A request between authentication and settlement. Times are seconds of a monotonic clock."""

    request_id: str
    match: Match
    endpoint: str
    """Its path as a pattern, as the ledger and the metrics record it."""
    principal: Principal
    parsed: ParsedRequest
    route: Candidate
    """The candidate that is asked now."""
    further: tuple[Destination, ...]
    """Those that may be asked after it."""
    targets: tuple[Target, ...]
    """Where the candidate's provider takes requests."""
    target: Target
    """The one of them that is asked now."""
    body: bytes
    started_s: float
    client_request_id: str | None
    include_cost: bool
    strict: bool
    """Whether the hold is an upper bound; else it is an estimate."""
    facts: Facts
    """What is the same for all requests of this key for this model at this endpoint."""
    terms: Terms
    """Those of the candidate that is asked now."""
    tags: str | None
    """What the debit is attributed to, as the ledger keeps it: see `gateway.proxy.intake`."""
    sender: Sender = NOBODY
    attempts: int = 1
    """How often a provider is asked, this time included."""
    status: int = EXPIRED_STATUS
    upstream_request_id: str | None = None
    first_byte_s: float | None = None
    prepared: UpstreamRequest | None = None
    """What the provider is sent where the hold leaves the request as it is; until it is sent."""
    charged: Debit | None = None
    """The debit, once it has been made."""
    settling_s: float = 0.0
    """When it was."""
    logged: bool = False
    """Whether the request log has its line, or will."""
    cut: Reason | None = None
    """Why the client does not get the whole answer, where that is known."""
    trace: Trace | None = None
    """What is traced of it, where it is sampled."""
    unread: bool = False
    """Whether the gateway stopped reading a provider that may bill more than it has shown: see
    `gateway.proxy.detached`."""

    @property
    def described(self) -> str:
        """Return who asks whom, for a line of the log."""
        provider, account_id = self.route.provider.name, self.principal.account_id
        return f"request {self.request_id}: {provider}, model {self.route.model}, account {account_id}"

    def turn(self, following: Destination, target: Target, rules: EstimateSettings) -> None:
        """Go on to another candidate of `further`; those before it are passed over."""
        self.terms = Terms(self.principal, self.terms.route, following.candidate, rules)
        self.route, self.targets = following.candidate, following.targets
        self.further = self.further[self.further.index(following) + 1 :]
        self.turn_to(target)

    def turn_to(self, target: Target) -> None:
        """Ask the provider by another target, or once more."""
        self.target = target
        self.prepared = self.first_byte_s = self.upstream_request_id = None

    def granted(self, hold: Hold) -> Granted | None:
        """Return what the provider is told because the hold has bounded it: output tokens below the candidate's own,
        and calls of open tools. None where the request goes on as the client wrote it."""
        output_tokens, parsed = None, self.parsed
        if parsed.max_output_tokens is None:
            granted, own = hold.granted_output, self.route.max_output_tokens
            if granted < hold.need.most_output and (own is None or granted < own):
                output_tokens = granted
        tool_calls = self.granted_calls(hold) if parsed.work.open_tools else None
        return None if output_tokens is None and tool_calls is None else Granted(output_tokens, tool_calls)

    def granted_calls(self, hold: Hold) -> int | None:
        """Return how often tools may run at the provider that the request leaves open; None where it leaves none."""
        work = self.parsed.work
        if not work.open_tools or self.match.endpoint.free:
            return None
        return hold.granted_calls if self.strict else most_granted(work, self.terms.rules.default_tool_calls)

    def balance_before_nano(self, hold: Hold) -> int:
        """Return what the account had when this request was admitted, all other holds taken off."""
        before: int = hold.available_nano + hold.cost_nano - self.principal.credit_limit_nano
        return before

    def charge(self, usage: Usage, reported: Reported | None = None) -> Charge:
        """Return what a usage costs on this route, with that of the other models that `reported` names; nothing at a
        free endpoint. The service tier, the speed and the model are the answer's own; where it names none, that of the
        request holds."""
        if self.match.endpoint.free:
            return FREE
        parsed, markup_scaled = self.parsed, self.terms.markup_scaled
        if parsed.work.fast and (reported is None or reported.speed is None):
            reported = msgspec.structs.replace(reported or Reported(usage), speed=FAST)
        if reported is None:
            return charge(usage, self.route, markup_scaled, parsed.service_tier)
        tier = reported.service_tier or parsed.service_tier
        return charge(usage, self.route, markup_scaled, tier, reported.model, reported)

    def expired(self, input_tokens: int) -> Debit:
        """Return the debit of a hold whose gateway dies, charged for so much input."""
        usage = Usage(input_tokens=input_tokens)
        return self.debit(usage, self.charge(usage), estimated=True, admitted_at_ms=0, now_s=self.started_s)

    def uncharged(self) -> Debit:
        """Return the debit of a hold whose gateway dies and that is not charged; nothing in it is of one request
        alone."""
        debit = self.debit(NOTHING, FREE, estimated=True, admitted_at_ms=0, now_s=self.started_s)
        return msgspec.structs.replace(
            debit, request_id="", client_request_id=None, end_user=None, tags=self.terms.tags, **_OF_NOBODY
        )

    def settled(self, hold: Hold, usage: Usage, charge: Charge, *, reason: Reason | None, now_s: float) -> Debit:
        """Return the debit of an answer; `reason` says why its usage was estimated, None where the provider has counted
        it. Where the answer was cut its status says so, and its note why."""
        broken = self.cut or reason
        if self.match.endpoint.free:
            usage, charge = NOTHING, FREE
        return self.debit(
            usage,
            charge,
            estimated=reason is not None,
            admitted_at_ms=hold.admitted_at_ms,
            now_s=now_s,
            note=reason or self.cut,
            status=CUT_STATUS.get(broken) if broken is not None else None,
        )

    def whole_hold(self, hold: Hold) -> tuple[Usage, Charge]:
        """Return what the hold covers, charged as it was held."""
        usage = Usage(input_tokens=hold.need.input_tokens, output_tokens=hold.output_tokens)
        return usage, msgspec.structs.replace(self.charge(usage), charged_nano=hold.cost_nano)

    def unresolved(self, hold: Hold) -> Debit:
        """Return the debit of a hold that a fault of ours left open after a provider had worked for it: charged whole.
        Nothing of a client's or a provider's words is in it, so that it can't fail as well."""
        debit = self.settled(hold, *self.whole_hold(hold), reason="internal_error", now_s=self.started_s)
        nothing_foreign = {"client_request_id": None, "upstream_request_id": None, "tags": None, "end_user": None}
        return msgspec.structs.replace(debit, latency_ms=None, ttft_ms=None, **nothing_foreign, **_OF_NOBODY)

    def debit(
        self,
        usage: Usage,
        charge: Charge,
        *,
        estimated: bool,
        admitted_at_ms: int,
        now_s: float,
        note: str | None = None,
        status: int | None = None,
    ) -> Debit:
        """Return the row that the ledger gets; `status` is another one than the provider's."""
        principal, route, parsed, sender = self.principal, self.route, self.parsed, self.sender
        first_byte_s = self.first_byte_s
        assert route.rates is not None  # noqa: S101  (a charge was made from them)
        return Debit(  # by place: see `Debit`
            self.request_id,
            admitted_at_ms,
            "settled",
            principal.account_id,
            principal.user_id,
            principal.key_id,
            self.client_request_id,
            self.upstream_request_id,
            self.endpoint,
            FEATURE,
            route.entry,
            route.provider.name,
            route.model,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            other_counts(usage),
            charge.cost_nano,
            charge.charged_nano,
            charge.price_id or route.rates.row.id,
            charge.multiplier,
            self.terms.markup_scaled,
            estimated,
            status or self.status,
            parsed.stream,
            round((now_s - self.started_s) * 1000),
            None if first_byte_s is None else round((first_byte_s - self.started_s) * 1000),
            self.tags,
            parsed.end_user,
            note,
            None,  # epoch
            None,  # dseq
            LAYOUT,
            charge.by_model,
            sender.session,
            sender.agent,
            sender.parent_agent,
            sender.tool,
            sender.tool_version,
            self.attempts,
        )


_OF_NOBODY: Final = msgspec.structs.asdict(NOBODY)


def shown_id(given: str | bytes | None) -> str | None:
    """Return a client's or a provider's X-Request-Id as the ledger keeps it, bounded; it never identifies a debit.

    aiohttp keeps bytes of a header that are not UTF-8 as lone surrogates, which neither the journal nor Postgres takes.
    """
    if not given:
        return None
    if isinstance(given, bytes):
        return given[: 4 * MAX_FOREIGN_ID].decode("utf-8", "replace")[:MAX_FOREIGN_ID]
    return given[:MAX_FOREIGN_ID].encode("utf-8", "replace").decode()
