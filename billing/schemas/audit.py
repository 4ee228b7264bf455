"""The audit log as the API answers it. Pure."""

from __future__ import annotations

from typing import Any, Final, Self

from billing.schemas.base import Answer, Filter, Moment, PageQuery, Since


class OwnAuditQuery(PageQuery, frozen=True, kw_only=True):
    """Which rows: by an actor, of an action (`key.*` means all of a noun), from `since` on and before `until`."""

    actor: Filter | None = None
    action: Filter | None = None
    since: Since | None = None
    until: Since | None = None


class AuditQuery(OwnAuditQuery, frozen=True, kw_only=True):
    """The same, about an account or a user."""

    account_id: Filter | None = None
    user_id: Filter | None = None


class AuditShape(Answer, frozen=True, kw_only=True):
    """A change: `subject` is the id of the changed object, `before` and `after` its content. `address` is the caller's,
    null if it is unknown or not for the reader."""

    id: str
    created_at: Moment
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    address: str | None
    request_id: str | None
    account_id: str | None
    user_id: str | None

    @classmethod
    def of_entry(cls, entry: Any, *, with_cost: bool = True) -> Self:
        """Return a row of the log; for customers without what tells of the provider's cost."""
        states = entry.before, entry.after
        before, after = states if with_cost else map(_without_cost, states)
        return cls.of(entry, id=str(entry.id), created_at=entry.at, before=before, after=after)


# What a change of an account may say of the price rows that it goes by.
OF_COST: Final = frozenset({"price_ids"})


def _without_cost(state: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if state is None else {name: value for name, value in state.items() if name not in OF_COST}
