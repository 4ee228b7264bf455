"""Accounts, their grants, refunds and adjustments, and repricing, as the API takes and answers them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType, field

from billing.money import DEFAULT_PRIORITY, format_credits, format_usd
from billing.plans import Status
from billing.schemas.base import (
    Answer,
    Body,
    Filter,
    Id,
    Moment,
    Name,
    PageQuery,
    PositiveUsdBody,
    Priority,
    SignedUsdBody,
    Since,
    Usd,
    UsdBody,
)
from billing.schemas.quotas import QuotasBody, QuotaShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.plans import Plan


PlanId = Annotated[
    str,
    Meta(description="one of the plans of `plans.yaml`", examples=["starter"], extra_json_schema={"format": "plan"}),
]
Note = Annotated[str, Meta(max_length=1000)]
Reason = Annotated[str, Meta(min_length=1, max_length=1000, description="why: the audit log keeps it")]
Against = Literal["write_off", "revenue"]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=255, description="unique per account")]


Zone = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        description="a time zone of the IANA database",
        examples=["Europe/Berlin"],
        extra_json_schema={"format": "time-zone"},
    ),
]


class AccountsQuery(PageQuery, frozen=True, kw_only=True):
    """Which accounts: with a text in their names, or of an id; of a status."""

    search: Filter | None = None
    status: Status | None = None


class NewAccount(Body, frozen=True, kw_only=True):
    """An account to make; `credit_limit_usd` is how far below zero its balance may go, `tz` where its days and months
    begin in reports: without it in UTC."""

    name: Name
    plan: PlanId | None = None
    credit_limit_usd: UsdBody = "0"
    quotas: QuotasBody = ()
    tz: Zone | None = None


class AccountPatch(Body, frozen=True, kw_only=True):
    """A change of an account: what is absent stays as it is; a `tz` of null is UTC. `reason` is kept by the audit log
    alone."""

    name: Name | UnsetType = UNSET
    plan: PlanId | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    credit_limit_usd: UsdBody = UNSET
    quotas: QuotasBody = UNSET
    tz: Zone | UnsetType | None = UNSET
    reason: Reason | UnsetType = UNSET


class NewQuotas(Body, frozen=True, kw_only=True):
    """All quotas of an account's, or a user's, own."""

    quotas: QuotasBody


class NewGrant(Body, frozen=True, kw_only=True):
    """Credit to give: once for an idempotency key, the same again gets the first answer."""

    amount_usd: PositiveUsdBody
    idempotency_key: IdempotencyKey
    note: Note | None = None


class NewCredit(NewGrant, frozen=True, kw_only=True):
    """A grant, and how its credit is drawn: that of a lower priority first, promotional before paid. It expires at
    `expires_at`; without that never."""

    expires_at: Since | None = None
    priority: Priority = DEFAULT_PRIORITY
    promotional: bool = True


class NewAdjustment(Body, frozen=True, kw_only=True):
    """A correction of a balance: above zero it raises it, below zero it takes from it. `against` is the system account
    on the other side."""

    amount_usd: SignedUsdBody
    idempotency_key: IdempotencyKey
    reason: Reason
    against: Against = "write_off"


class AccountShape(Answer, frozen=True, kw_only=True):
    """An account as an operator sees it. The balance is the ledger's, which debits reach well under a second after
    their request; `quotas` are the account's own, `plan_quotas` its plan's, which apply beside them."""

    id: str
    name: str
    plan: str
    status: Status
    balance_usd: Usd
    balance_credits: str
    credit_limit_usd: Usd
    quotas: list[QuotaShape]
    plan_quotas: list[QuotaShape] = field(default_factory=list)
    tz: Zone | None = None
    past_due_since: Moment | None
    created_at: Moment

    @classmethod
    def of_account(cls, account: Any, plan: Plan | None, credits_per_usd: int) -> Self:
        """Return an account; `plan` is None for one that is no longer configured."""
        return cls.of(
            account,
            balance_credits=format_credits(account.balance_nano, credits_per_usd),
            plan_quotas=() if plan is None else plan.quotas,
        )


class UserQuotasShape(Answer, frozen=True, kw_only=True):
    """What a user may use in an account with all keys together, beside what the keys, the account and the plan say."""

    account_id: str
    user_id: str
    quotas: list[QuotaShape]


class GrantShape(Answer, frozen=True, kw_only=True):
    """What a grant, a refund or an adjustment has done: the account's balance is the one right after it."""

    transfer_id: str
    amount_usd: Usd
    balance_usd: Usd


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
