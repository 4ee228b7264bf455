"""One request on its way: what is known of it so far, and the debit that it becomes. Pure: the clock is passed in."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from billing.holds.hold import Hold
from billing.ledger.debits import Debit, other_counts
from billing.principals import Principal
from billing.usage import Usage
from gateway.dialects.base import ParsedRequest
from gateway.proxy.estimate import Charge, charge
from gateway.proxy.routing import Route
from gateway.proxy.terms import Terms
from gateway.upstream.base import UpstreamRequest

FEATURE: Final = "llm"
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
]
"""Why a usage is not the provider's own count, or its answer not whole; the note of its debit."""
CUT_STATUS: Final[Mapping[Reason, int]] = {
    "client_gone": 499,
    "client_stalled": 499,
    "max_request_s": 504,
    "upstream_cut": 502,
    "answer_too_large": 502,
    "internal_error": 502,
    "hold_closed": 503,
}
"""What the debit says as its status where the client has not got a whole answer, as metrics count it: 499 is a client
that left or had to be left, which nobody receives."""
MAX_FOREIGN_ID: Final = 200
EXPIRED_STATUS: Final = 0
CLIENT_GONE: Final = 499
"""The status under which a request is counted whose client left; nobody receives it."""
NOTHING: Final = Usage()
FREE: Final = Charge(0, 0, None)


class RequestContext(msgspec.Struct, gc=False):
    """A request between authentication and settlement. Times are seconds of a monotonic clock."""

    request_id: str
    endpoint: str
    principal: Principal
    parsed: ParsedRequest
    route: Route
    body: bytes
    started_s: float
    client_request_id: str | None
    include_cost: bool
    strict: bool
    """Whether the hold is an upper bound; else it is an estimate."""
    terms: Terms
    """What is the same for all requests of this key on this model."""
    status: int = EXPIRED_STATUS
    upstream_request_id: str | None = None
    first_byte_s: float | None = None
    prepared: UpstreamRequest | None = None
    """What the provider is sent where the hold leaves the request as it is; until it is sent."""
    charged: Debit | None = None
    """The debit, once it has been made."""
    logged: bool = False
    """Whether the request log has its line, or will."""
    cut: Reason | None = None
    """Why the client does not get the whole answer, where that is known."""

    def balance_before_nano(self, hold: Hold) -> int:
        """What the account had when this request was admitted, all other holds taken off."""
        before: int = hold.available_nano + hold.cost_nano - self.principal.credit_limit_nano
        return before

    def charge(self, usage: Usage, service_tier: str | None, served: str | None = None) -> Charge:
        """What a usage costs on this route. `served` and `service_tier` are the answer's own; where it names no tier,
        that of the request holds."""
        tier = service_tier or self.parsed.service_tier
        return charge(usage, self.route, self.terms.markup_scaled, tier, served)

    def expired(self, input_tokens: int) -> Debit:
        """The debit of a hold whose gateway dies, charged for so much input."""
        usage = Usage(input_tokens=input_tokens)
        return self.debit(usage, self.charge(usage, None), estimated=True, admitted_at_ms=0, now_s=self.started_s)

    def uncharged(self) -> Debit:
        """The debit of a hold whose gateway dies and that is not charged; nothing in it is of one request alone."""
        debit = self.debit(NOTHING, FREE, estimated=True, admitted_at_ms=0, now_s=self.started_s)
        return msgspec.structs.replace(debit, request_id="", client_request_id=None, end_user=None)

    def settled(self, hold: Hold, usage: Usage, charge: Charge, *, reason: Reason | None, now_s: float) -> Debit:
        """The debit of an answer; `reason` says why its usage was estimated, None where the provider has counted it.
        Where the answer was cut its status says so, and its note why."""
        broken = self.cut or reason
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
        """What the hold covers, charged as it was held."""
        usage = Usage(input_tokens=hold.need.input_tokens, output_tokens=hold.output_tokens)
        return usage, msgspec.structs.replace(self.charge(usage, None), charged_nano=hold.cost_nano)

    def unresolved(self, hold: Hold) -> Debit:
        """The debit of a hold that a fault of ours left open after a provider had worked for it: charged whole. Nothing
        of a client's or a provider's words is in it, so that it can't fail as well."""
        debit = self.settled(hold, *self.whole_hold(hold), reason="internal_error", now_s=self.started_s)
        nothing_foreign = {"client_request_id": None, "upstream_request_id": None, "tags": None, "end_user": None}
        return msgspec.structs.replace(debit, latency_ms=None, ttft_ms=None, **nothing_foreign)

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
        """The row that the ledger gets; `status` is another one than the provider's."""
        principal, route, parsed = self.principal, self.route, self.parsed
        first_byte_s = self.first_byte_s
        assert route.rates is not None  # noqa: S101  (a charge was made from them)
        return Debit(
            request_id=self.request_id,
            admitted_at_ms=admitted_at_ms,
            outcome="settled",
            account_id=principal.account_id,
            user_id=principal.user_id,
            key_id=principal.key_id,
            client_request_id=self.client_request_id,
            upstream_request_id=self.upstream_request_id,
            endpoint=self.endpoint,
            feature=FEATURE,
            model=route.entry,
            provider=route.provider.name,
            provider_model=route.model,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            counts=other_counts(usage),
            cost_nano=charge.cost_nano,
            charged_nano=charge.charged_nano,
            price_id=charge.price_id or route.rates.row.id,
            multiplier=charge.multiplier,
            markup_scaled=self.terms.markup_scaled,
            estimated=estimated,
            status=status or self.status,
            stream=parsed.stream,
            latency_ms=round((now_s - self.started_s) * 1000),
            ttft_ms=None if first_byte_s is None else round((first_byte_s - self.started_s) * 1000),
            tags=self.terms.tags,
            end_user=parsed.end_user,
            note=note,
        )


def shown_id(said: str | bytes | None) -> str | None:
    """A client's or a provider's X-Request-Id as the ledger keeps it, bounded; it never identifies a debit.

    aiohttp keeps bytes of a header that are not UTF-8 as lone surrogates, which neither the journal nor Postgres takes.
    """
    if not said:
        return None
    if isinstance(said, bytes):
        return said[: 4 * MAX_FOREIGN_ID].decode("utf-8", "replace")[:MAX_FOREIGN_ID]
    return said[:MAX_FOREIGN_ID].encode("utf-8", "replace").decode()
