"""What a service asks under an event's id, what that costs, the debit that it becomes, and the ways that it fails.
Pure.

An amount is either named by the service or comes from counts by the table of prices, never from neither. Equal requests
have equal digests, by which a repeated event is told from another one under its id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from billing.errors import Kind, MetergateError
from billing.holds.model import Need
from billing.ledger.debits import NAMED, Debit, other_counts
from billing.money import MAX_NANO
from billing.pricing import METER_PROVIDER, PriceTable, round_up
from billing.usage import Usage

if TYPE_CHECKING:
    from billing.holds.model import Refused
    from billing.pricing import PriceRow
    from billing.principals import Principal


class UnknownAccount(MetergateError):
    """There is no such account, or no such key of it that may be used."""

    kind: ClassVar[Kind] = "not_found"


class NotAdmitted(MetergateError):
    """Balance, quotas or the account's status have no room for it: `decision`, None for the status. What a request is
    refused with follows from these."""

    def __init__(self, principal: Principal, decision: Refused | None, required_nano: int) -> None:
        super().__init__("The account has no room for this.")
        self.principal, self.decision, self.required_nano = principal, decision, required_nano


@dataclass(frozen=True, slots=True)
class Payer:
    """The account that a call is about, and the service that makes it, by its name; `key_id` where it is about one of
    the account's API keys."""

    service: str
    account_id: str
    key_id: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Return what a call says of a key, for its digest: nothing where it names none, as before keys were named."""
        return () if self.key_id is None else (self.key_id,)


class EventConflict(MetergateError):
    """The id of this event was used for something else, or what it ends has ended otherwise."""

    kind: ClassVar[Kind] = "conflict"


class EventRefused(MetergateError):
    """The ledger can't take this event, whatever is tried: its account's balance would leave its bounds, say."""

    kind: ClassVar[Kind] = "invalid"


class Busy(MetergateError):
    """So many events wait for Postgres that no more are taken, or it is away."""

    kind: ClassVar[Kind] = "unavailable"


@dataclass(frozen=True, slots=True)
class Claim:
    """An event of an account, by its id, and what it asks, as a digest; `answer` is what it is answered with, then and
    for good. `hold_id` is the hold that it settles."""

    account_id: str
    event_id: str
    digest: bytes
    answer: str
    hold_id: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The first answer to an event; `replayed` where it had been recorded before."""

    answer: str
    replayed: bool = False


def replayed(claim: Claim, digest: bytes, answer: str) -> Recorded:
    """Return the first answer to an event, of which the ledger has this digest. Raises `EventConflict`."""
    if digest != claim.digest:
        raise EventConflict(f"The event_id {claim.event_id!r} was used for something else: use another one.")
    return Recorded(answer, replayed=True)


def settled_before(claim: Claim, row: Any) -> Recorded:
    """Return the first answer to a settlement whose hold (a row) has ended. Raises `EventConflict` where it has ended
    otherwise than this claim says."""
    if row["state"] == "settled" and row["end_event_id"] == claim.event_id:
        return replayed(claim, row["end_digest"], row["end_answer"])
    if row["state"] in ("held", "expired"):
        raise EventConflict(f"The event_id {claim.event_id!r} was used for something else: use another one.")
    raise EventConflict(f"The hold {row['id']} is {row['state']} already: it can't be settled by this event.")


# What quotas count an event under that names no feature.
FEATURE: Final = "service"
# The model of an amount without a meter and a model, and the provider of a model without one.
NO_METER: Final = "service"
THOUSANDTHS: Final = 1000
_QUANTITY: Final = re.compile(r"(?P<whole>\d{1,13})(?:\.(?P<fraction>\d{1,3}))?", re.ASCII)


class BadMeasure(MetergateError, ValueError):
    """What is asked to be charged names no amount and no counts, or what does not go together."""

    kind: ClassVar[Kind] = "invalid"


class MeterNotPriced(MetergateError):
    """The table of prices has no row for it."""

    kind: ClassVar[Kind] = "not_priced"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a service wants to be charged or held: `amount_nano`, or None for what its counts cost by the table of
    prices. `meter` is the name of what `thousandths` count; `model` of `provider` what tokens are of.

    Raises `BadMeasure`.
    """

    amount_nano: int | None = None
    meter: str | None = None
    thousandths: int | None = None
    provider: str | None = None
    model: str | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    feature: str = FEATURE
    user_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.meter == NO_METER:
            raise BadMeasure(f"A meter has another name than {NO_METER}.", "meter")
        if self.meter is not None and self.model is not None:
            raise BadMeasure("Name a meter or a model, not both.", "meter")
        if self.model is not None and self.provider == METER_PROVIDER:  # tokens of a price by units would be free
            raise BadMeasure(f"{METER_PROVIDER} is the provider of no model: name a meter and a quantity.", "provider")
        if self.thousandths is not None and self.meter is None:
            raise BadMeasure("A quantity is of a meter: name it.", "meter")
        parts = self.cached_input_tokens + self.cache_write_tokens
        tokens = self.input_tokens or self.output_tokens or parts
        if tokens and self.model is None:
            raise BadMeasure("Tokens are of a model: name it.", "model")
        if parts > self.input_tokens:
            field = "cached_input_tokens" if self.cached_input_tokens else "cache_write_tokens"
            raise BadMeasure("cached_input_tokens and cache_write_tokens are parts of input_tokens.", field)
        if self.amount_nano is not None:
            return
        if self.meter is None and self.model is None:
            raise BadMeasure("Say what to charge: amount_usd, or a meter and a quantity.", "amount_usd")
        if self.meter is not None and self.thousandths is None:
            raise BadMeasure("Say how much: a quantity, or amount_usd.", "quantity")
        if self.model is not None and self.provider is None:
            raise BadMeasure("A model's price is found by its provider, too: name it, or amount_usd.", "provider")

    @property
    def name(self) -> str:
        """Return what quotas by model and reports call it."""
        return self.meter or self.model or NO_METER

    @property
    def owner(self) -> str:
        """Return whose price rows it is priced by."""
        return METER_PROVIDER if self.model is None else self.provider or NO_METER

    @property
    def usage(self) -> Usage:
        """Return its counts."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            unit_thousandths=self.thousandths,
        )


_FIELDS: Final = tuple(each.name for each in fields(Measure))
# Fields in which zero differs from a missing value.
_MAYBE_ZERO: Final = frozenset(("amount_nano", "thousandths"))


@dataclass(frozen=True, slots=True)
class Charge:
    """What a measure costs: `cost_nano` by the table, `charged_nano` with the plan's markup; both the amount where one
    was named, of which `price_id` says that."""

    measure: Measure
    usage: Usage
    cost_nano: int
    charged_nano: int
    price_id: str = ""
    markup_scaled: int = 0

    @property
    def need(self) -> Need:
        """Return what a hold of it takes. Raises `NeedTooLarge`."""
        output = self.usage.output_tokens
        return Need(self.usage.input_tokens, self.charged_nano, 0, 1, output, output)

    def debit(self, request_id: str, principal: Principal, endpoint: str, event_id: str | None, at_ms: int) -> Debit:
        """Return its debit, which names the event as the client's own request id."""
        measure, usage = self.measure, self.usage
        return Debit(
            request_id=request_id,
            admitted_at_ms=at_ms,
            outcome="settled",
            account_id=principal.account_id,
            user_id=measure.user_id or principal.user_id,
            key_id=principal.key_id,
            client_request_id=event_id,
            endpoint=endpoint,
            feature=measure.feature,
            model=measure.name,
            provider=measure.owner,
            provider_model=measure.name,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            counts=other_counts(usage),
            cost_nano=self.cost_nano,
            charged_nano=self.charged_nano,
            price_id=self.price_id,
            markup_scaled=self.markup_scaled,
            status=200,
            tags=msgspec.json.encode(measure.tags).decode() if measure.tags else None,
        )


def measure_of(debit: Debit) -> Measure:
    """Return what the debit of a hold is for, without an amount or counts."""
    is_model = debit.provider != METER_PROVIDER
    return Measure(
        amount_nano=0,
        meter=None if is_model or debit.model == NO_METER else debit.model,
        provider=debit.provider if is_model and debit.provider != NO_METER else None,
        model=debit.model if is_model else None,
        feature=debit.feature,
        user_id=debit.user_id,
        tags=msgspec.json.decode(debit.tags, type=dict[str, str]) if debit.tags else {},
    )


def charge_of(measure: Measure, prices: PriceTable, markup_scaled: int, at_s: float) -> Charge:
    """Return what a measure costs by the prices in force at a Unix time. Raises `MeterNotPriced`, and `BadMeasure` for
    an amount beyond 2^53 - 1 nano-USD."""
    if measure.amount_nano is not None:
        return Charge(measure, measure.usage, measure.amount_nano, measure.amount_nano, NAMED)
    row = prices.find(measure.owner, measure.name, at_s)
    if row is None or (measure.meter is not None and row.per_unit.keys().isdisjoint(("unit", "million"))):
        what = "meter" if measure.meter is not None else "model"
        how = f"ask whoever runs this gateway for a price of {measure.owner}, or name amount_usd"
        raise MeterNotPriced(f"The {what} `{measure.name}` has no price here: {how}.", what)
    return charge_by(row, row.id, measure, markup_scaled)


def charge_by(row: PriceRow, price_id: str, measure: Measure, markup_scaled: int) -> Charge:
    """Return what counts cost by a row of prices that the ledger knows as `price_id`. Raises `BadMeasure` for an amount
    beyond 2^53 - 1 nano-USD."""
    usage = measure.usage
    scaled = row.cost_scaled(usage)
    cost_nano, charged_nano = round_up(scaled), round_up(scaled, markup_scaled)
    if charged_nano > MAX_NANO:
        raise BadMeasure("So much costs more than one transfer can be: split it.", "quantity")
    return Charge(measure, usage, cost_nano, charged_nano, price_id, markup_scaled)


def parse_quantity(value: object) -> int:
    """Return the thousandths of a quantity: a whole number, or a decimal string with at most three decimals. Raises
    `BadMeasure`."""
    if type(value) is float and value.is_integer():  # which JSON does not tell from a whole number
        value = int(value)
    text = str(value) if type(value) is int else value
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    thousandths = int(match["whole"]) * THOUSANDTHS + int((match["fraction"] or "").ljust(3, "0")) if match else -1
    if not 0 <= thousandths <= MAX_NANO:
        what = 'a whole number or a decimal string with at most three decimals, such as "1.5"'
        raise BadMeasure(f"quantity is {what}, of at most {MAX_NANO // THOUSANDTHS} units.", "quantity")
    return thousandths


def digest_of(kind: str, measure: Measure | None, *terms: object) -> bytes:
    """Return what tells whether two asks under one id are the same: a digest of all that they say. Of a measure that
    is what is set, so that a field of a later release changes no digest of an ask that does not have it."""
    measured = {} if measure is None else {name: getattr(measure, name) for name in _FIELDS}
    chosen = {name: value for name, value in measured.items() if value or (value == 0 and name in _MAYBE_ZERO)}
    return hashlib.sha256(msgspec.json.encode((kind, chosen, *terms), order="deterministic")).digest()
