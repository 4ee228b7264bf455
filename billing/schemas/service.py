"""What other services send and get: checks, debits, usage, holds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import UNSET, Meta, UnsetType

from billing.money import format_credits, format_usd
from billing.schemas.base import Answer, Body, Id, Moment, Since, Usd, UsdBody, matching

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_TAGS: Final = 16
_BINARY: Final = "ce-"
# The header by which a CloudEvent in binary mode is known.
BINARY_EVENT: Final = f"{_BINARY}specversion"
HoldState = Literal["held", "settled", "voided", "expired"]

EventId = Annotated[
    str,
    matching(
        "[!-~]+",
        min_length=1,
        max_length=255,
        description="an id of your own for what you ask, without spaces: the same again gets the first answer",
    ),
]
Named = Annotated[
    str, matching("[A-Za-z0-9][A-Za-z0-9_./:@+-]*", min_length=1, max_length=100, examples=["container.second"])
]
Quantity = Annotated[
    Any,
    Meta(
        description="a whole number, or a decimal string with at most three decimals",
        extra_json_schema={
            "oneOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]{1,13}(\.[0-9]{1,3})?$"},
            ],
            "examples": ["1.5"],
        },
    ),
]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tags = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]],
    Meta(max_length=MOST_TAGS),
]


class Counted(Body, frozen=True, kw_only=True):
    """How much is to be charged: `amount_usd`, or what counts cost by the table of prices. With `amount_usd` counts are
    for the reports, and for quotas of tokens."""

    amount_usd: UsdBody | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET
    input_tokens: Tokens = 0
    cached_input_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    output_tokens: Tokens = 0


class Asked(Counted, frozen=True, kw_only=True):
    """What an account is to be charged: a `quantity` of a `meter`, tokens of a `model` of a `provider`, or an amount.
    `feature` is what quotas may be limited to."""

    account_id: Id
    meter: Named | None = None
    provider: Named | None = None
    model: Named | None = None
    feature: Named = "service"
    user_id: Id | None = None
    tags: Tags = msgspec.field(default_factory=dict)


class AskedOfKey(Asked, frozen=True, kw_only=True):
    """What an account is to be charged, perhaps for one of its API keys: it then counts in the quotas of that key and
    of its user, too, and is that key's in reports."""

    key_id: Id | None = None


class NewDebit(AskedOfKey, frozen=True, kw_only=True):
    """A debit, if balance and quotas have room for it."""

    event_id: EventId


class NewUsage(NewDebit, frozen=True, kw_only=True):
    """Something that was used, and is debited whatever the balance: at `time`, at most 35 days back."""

    time: Since | None = None


class UsageEvents(Body, frozen=True, kw_only=True):
    """Several events, each recorded or refused by itself."""

    events: Annotated[list[NewUsage], Meta(max_length=1000)]


class NewHold(Asked, frozen=True, kw_only=True):
    """A hold of what something may cost at most, for so many seconds."""

    event_id: EventId
    expires_in_s: Annotated[int, Meta(ge=1)] | None = None


class Settlement(Counted, frozen=True, kw_only=True):
    """What a hold turns into: an amount, or a quantity or tokens of what it is for. `event_id` may be left out: a hold
    is settled once. `provider` is the model's, where the hold named none."""

    event_id: EventId | None = None
    provider: Named | None = None


class Giving(Body, frozen=True, kw_only=True):
    """A hold that is given back."""

    event_id: EventId | None = None


class KeyAsked(Body, frozen=True, kw_only=True):
    """An API key that somebody has shown to a service."""

    key: Annotated[str, Meta(min_length=1, max_length=255)]


class KeyHolder(Answer, frozen=True, kw_only=True):
    """The account, user and rights of an API key."""

    key_id: str
    key_name: str
    account_id: str
    account_status: str
    plan: str
    user_id: str | None
    scopes: list[str]
    models: list[str] | None
    tags: dict[str, str]
    expires_at: Moment | None


class KeyCheckShape(Answer, frozen=True, kw_only=True):
    """Whether an API key may be used now; `holder` is null for one that is wrong, revoked or expired."""

    active: bool
    holder: KeyHolder | None


class CheckShape(Answer, frozen=True, kw_only=True):
    """A hold of this would be granted now."""

    allowed: bool
    account_id: str
    required_usd: Usd
    available_usd: Usd


class DebitShape(Answer, frozen=True, kw_only=True):
    """What was charged: `charge_usd`, whose name until the next release is `charged_usd`. `id` is the usage event's;
    `created_at` when it was used."""

    id: str
    event_id: str
    account_id: str
    charged_usd: Usd
    charged_credits: str
    feature: str
    meter: str | None
    price_id: str | None
    created_at: Moment
    charge_usd: Usd = ""

    def __post_init__(self) -> None:
        if not self.charge_usd:  # of an answer that an earlier release has stored
            msgspec.structs.force_setattr(self, "charge_usd", self.charged_usd)

    @classmethod
    def of_debit(cls, fields: Mapping[str, Any], charged_nano: int, credits_per_usd: int) -> Self:
        """Return a debit, whose `fields` have all that is no money."""
        charged_credits = format_credits(charged_nano, credits_per_usd)
        return cls(**fields, charged_usd=format_usd(charged_nano), charged_credits=charged_credits)


class HoldShape(Answer, frozen=True, kw_only=True):
    """A service's hold; `charge_usd` stands when it is settled, and `charged_usd` is its name until the next
    release."""

    id: str
    event_id: str
    account_id: str
    state: HoldState
    held_usd: Usd
    charged_usd: Usd | None
    feature: str
    meter: str | None
    created_at: Moment
    expires_at: Moment
    ended_at: Moment | None
    charge_usd: Usd | None = None

    def __post_init__(self) -> None:
        if self.charge_usd is None:
            msgspec.structs.force_setattr(self, "charge_usd", self.charged_usd)

    @classmethod
    def of_hold(
        cls, fields: Mapping[str, Any], held_nano: int, charged_nano: int | None = None, ended_at: str | None = None
    ) -> Self:
        """Return a hold, whose `fields` have all that is no money."""
        charged_usd = None if charged_nano is None else format_usd(charged_nano)
        return cls(**fields, held_usd=format_usd(held_nano), charged_usd=charged_usd, ended_at=ended_at)


class EventError(Answer, frozen=True, kw_only=True):
    """Why an event of several was not recorded."""

    code: str
    message: str
    param: str | None = None


class EventResult(Answer, frozen=True, kw_only=True):
    """What came of one event, by its place in what was sent."""

    index: int
    event_id: str | None
    status: Literal["recorded", "replayed", "refused"]
    debit: DebitShape | None = None
    error: EventError | None = None


class UsageResults(Answer, frozen=True, kw_only=True):
    """What came of each event, in their order."""

    data: list[EventResult]
    recorded: int
    replayed: int
    refused: int


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of CloudEvents 1.0 (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) in JSON:
    `source` and `id` are its id, `subject` the account, `type` the meter. `data` is a quantity, or an object with
    `quantity` or `amount_usd`, and `feature`, `user_id`, `key_id`, `tags`. Attributes that are not used are let
    through, as that says."""

    specversion: Literal["1.0"]
    id: Annotated[str, matching("[!-~]+", min_length=1, max_length=255)]
    source: Annotated[str, matching("[!-~]+", min_length=1, max_length=255)]
    type: Named
    subject: Id
    time: Since | None = None
    datacontenttype: str | None = None
    data: Any = None


class CloudData(msgspec.Struct, frozen=True, kw_only=True):
    """The data of such an event; what is not named here is let through."""

    amount_usd: UsdBody | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET
    feature: Named = "service"
    user_id: Id | None = None
    key_id: Id | None = None
    tags: Tags = msgspec.field(default_factory=dict)


def structured(headers: Mapping[str, str], data: msgspec.Raw) -> msgspec.Raw:
    """Return the event in JSON that comes in binary mode: its attributes as headers, percent-encoded, its data as the
    body (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md). Raises
    `UnicodeDecodeError` for attributes that are not UTF-8."""
    attributes = {
        name.lower().removeprefix(_BINARY): unquote_to_bytes(value.encode(errors="surrogateescape")).decode()
        for name, value in headers.items()
        if name.lower().startswith(_BINARY)
    }
    return msgspec.Raw(msgspec.json.encode({**attributes, "data": data}))


def usage_of(event: CloudEvent) -> NewUsage:
    """Return the usage that a CloudEvent says. A source has no space: no two of them have one id. Raises
    `msgspec.ValidationError` for data that can't be read."""
    whole = event.data if isinstance(event.data, dict) else {} if event.data is None else {"quantity": event.data}
    data = msgspec.convert(whole, CloudData)
    return NewUsage(
        event_id=f"{event.source} {event.id}",
        account_id=event.subject,
        meter=event.type,
        time=event.time,
        **msgspec.structs.asdict(data),
    )
