"""What the billing API answers, as types: dictionaries just as they came, so that fields of a newer gateway are kept.

Money is a decimal string of USD, a time RFC 3339. What each field means: docs/api.md.
"""

from typing import Any, Final, NotRequired, TypedDict

from billing.principals import Status

DEFAULT_TIMEOUT_S: Final = 30.0
"""Longest time for one call, unless its caller says another one."""


class QuotaShape(TypedDict):
    """`limit` is a decimal USD string for `cost`, else an integer."""

    window: str
    metric: str
    limit: int | str
    model: NotRequired[str]
    feature: NotRequired[str]


class AccountShape(TypedDict):
    """An account as an operator sees it: its own quotas, and its plan's, which apply beside them."""

    id: str
    name: str
    plan: str
    status: Status
    balance_usd: str
    balance_credits: str
    credit_limit_usd: str
    quotas: list[QuotaShape]
    plan_quotas: NotRequired[list[QuotaShape]]
    past_due_since: str | None
    created_at: str


class GrantShape(TypedDict):
    """What a grant or a refund has done: the account's balance is the one right after it."""

    transfer_id: str
    amount_usd: str
    balance_usd: str


class KeyShape(TypedDict):
    """A key without its secret. `models` None allows every model; `warnings` says what of a change may not be meant."""

    id: str
    prefix: str
    name: str
    account_id: str
    user_id: str | None
    scopes: list[str]
    models: list[str] | None
    quotas: list[QuotaShape]
    max_parallel_requests: int | None
    tags: dict[str, str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    warnings: NotRequired[list[str]]


class NewKeyShape(KeyShape):
    """A key just made: `key` is its secret, which no other answer holds."""

    key: str


class AccountsShape(TypedDict):
    """A page of accounts, newest first."""

    data: list[AccountShape]
    next_cursor: str | None


class KeysShape(TypedDict):
    """A page of keys, newest first."""

    data: list[KeyShape]
    next_cursor: str | None


class AccountChanges(TypedDict, total=False):
    """What a change of an account may say; what is absent stays as it is."""

    name: str
    plan: str
    status: Status
    credit_limit_usd: str


class KeyRules(TypedDict, total=False):
    """What a key may say beside its name; absent is the default, or for a change what it was. None clears."""

    scopes: list[str] | None
    models: list[str] | None
    quotas: list[QuotaShape] | None
    max_parallel_requests: int | None
    expires_at: str | None
    tags: dict[str, str] | None


class KeyChanges(KeyRules, total=False):
    """What a change of a key may say; what is absent stays as it is, None clears."""

    name: str


class BalanceShape(TypedDict):
    """An account's money as its customer sees it; `held_usd` is what running requests have reserved."""

    account_id: str
    balance_usd: str
    balance_credits: str
    held_usd: str
    available_usd: str
    credit_limit_usd: str
    status: Status
    plan: str


class TransactionShape(TypedDict):
    """A transfer as its account sees it: `amount_usd` above zero raised the balance."""

    id: str
    kind: str
    amount_usd: str
    request_id: str | None
    idempotency_key: str | None
    note: str | None
    created_at: str


class TransactionsShape(TypedDict):
    """A page of transfers, newest first."""

    data: list[TransactionShape]
    next_cursor: str | None


class EventShape(TypedDict):
    """A metered request. `cost_usd` is the provider's, `charged_usd` the customer's."""

    id: str
    created_at: str
    account_id: str
    user_id: str | None
    key_id: str
    endpoint: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    units: dict[str, int]
    cost_usd: str
    charged_usd: str
    price_id: str
    estimated: bool
    status: int
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: dict[str, str]
    end_user: str | None
    lines: NotRequired[list["LineShape"]]


LineShape = TypedDict(
    "LineShape",
    {
        "class": str,
        "quantity": int,
        "price_usd_per_million": NotRequired[str],
        "price_usd": NotRequired[str],
        "amount_usd": str,
    },
)
"""One line of a charge, in an event that is asked for by its id."""


class EventsShape(TypedDict):
    """A page of metered requests, newest first."""

    data: list[EventShape]
    next_cursor: str | None


class UsageShape(TypedDict):
    """Totals; `cost_usd` is what was charged."""

    events: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: str


class ErrorShape(TypedDict):
    """What stands inside `error` of a refusal; some codes bring more fields, see docs/api.md."""

    message: str
    type: str
    code: str
    param: NotRequired[str | None]


class RefusalShape(TypedDict):
    """The envelope of every refusal."""

    error: ErrorShape


class RefusedShape(TypedDict):
    """A request that was refused; `details` is what the refusal said beside its message."""

    id: str
    created_at: str
    account_id: str | None
    key_id: str | None
    endpoint: str
    model: str | None
    status: int
    code: str
    message: str
    details: dict[str, Any]


class RefusalsShape(TypedDict):
    """The last requests that were refused, newest first."""

    data: list[RefusedShape]
    next_cursor: str | None
