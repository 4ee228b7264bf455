"""What a service asks under an event's id, the answers to it, and the ways that it fails. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from billing.errors import Kind, MetergateError

if TYPE_CHECKING:
    from billing.holds.model import Refused
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
