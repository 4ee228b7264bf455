"""Repricing as the API takes and answers it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from msgspec import Meta

from billing.money import format_usd
from billing.schemas.accounts import Reason
from billing.schemas.base import Answer, Body, Id, Moment, Since, Usd

if TYPE_CHECKING:
    from collections.abc import Sequence


class NewRepricing(Body, frozen=True, kw_only=True):
    """Requests to charge by another price: those that a provider served with a model, as prices name it, admitted from
    `since` on and before `until`; of one account, or of all. Without `price_id` by the row that the present prices have
    in force at each request's time. `dry_run` changes nothing."""

    provider: Id
    model: Id
    since: Since
    until: Since
    account_id: Id | None = None
    price_id: Annotated[str, Meta(min_length=1, max_length=255, description="a row of the ledger")] | None = None
    reason: Reason | None = None
    dry_run: bool = True


class RepricedShape(Answer, frozen=True, kw_only=True):
    """A request: its charge by now (`charged_usd` is that name until the next release), what it would be charged, and
    the difference (below zero it is given back). `left` says why it stays as it is; `transfer_id` is the correction
    that was made."""

    id: str
    account_id: str
    created_at: Moment
    price_id_before: str
    price_id: str | None
    charge_usd: Usd
    charged_usd: Usd
    would_be_usd: Usd
    difference_usd: Usd
    left: str | None
    transfer_id: str | None

    @classmethod
    def of_line(cls, line: Any) -> Self:
        """Return a request."""
        return cls.of(line, id=line.request_id, created_at=line.admitted_at)


class RepricingShape(Answer, frozen=True, kw_only=True):
    """A batch of requests, in the order of their accounts, and its sums. While `next_cursor` is not null, there are
    more: each call looks at one batch."""

    dry_run: bool
    requests: int
    corrected: int
    charge_usd: Usd
    charged_usd: Usd
    would_be_usd: Usd
    difference_usd: Usd
    data: list[RepricedShape]
    next_cursor: str | None

    @classmethod
    def of_lines(cls, lines: Sequence[Any], next_cursor: str | None, *, dry_run: bool) -> Self:
        """Return a batch."""
        charge_usd = format_usd(sum(line.charged_nano for line in lines))
        return cls(
            dry_run=dry_run,
            requests=len(lines),
            corrected=sum(line.transfer_id is not None for line in lines),
            charge_usd=charge_usd,
            charged_usd=charge_usd,
            would_be_usd=format_usd(sum(line.would_be_nano for line in lines)),
            difference_usd=format_usd(sum(line.difference_nano for line in lines)),
            data=[RepricedShape.of_line(line) for line in lines],
            next_cursor=next_cursor,
        )
