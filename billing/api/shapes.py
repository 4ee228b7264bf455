"""What the API answers: one function for each shape. Fields may be added, none renamed or removed."""

import msgspec
from aiohttp import web

from billing.accounts.accounts import Account
from billing.accounts.grants import GrantResult
from billing.api.requests import encode_cursor
from billing.api.services import Services
from billing.effects import LiveBalance
from billing.keys.rows import KeyRow
from billing.ledger.reports import Transaction, UsageTotals
from billing.money import format_credits, format_usd
from billing.principals import Principal
from billing.quotas import quota_json
from billing.times import rfc3339

Shape = dict[str, object]


def answer(said: object, status: int = 200) -> web.Response:
    """JSON; nothing of it may be kept by a cache."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(said),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def page_shape(data: list[Shape], next_after: str | None) -> Shape:
    return {"data": data, "next_cursor": encode_cursor(next_after)}


def account_shape(account: Account, services: Services) -> Shape:
    """The balance is the ledger's: debits reach it well under a second after their request. `quotas` are the account's
    own, `plan_quotas` its plan's, which apply beside them."""
    plan = services.plans.get(account.plan)
    return {
        "id": account.id,
        "name": account.name,
        "plan": account.plan,
        "status": account.status,
        "balance_usd": format_usd(account.balance_nano),
        "balance_credits": format_credits(account.balance_nano, services.credits_per_usd),
        "credit_limit_usd": format_usd(account.credit_limit_nano),
        "quotas": [quota_json(quota) for quota in account.quotas],
        "plan_quotas": [] if plan is None else [quota_json(quota) for quota in plan.quotas],
        "past_due_since": account.past_due_since and rfc3339(account.past_due_since),
        "created_at": rfc3339(account.created_at),
    }


def grant_shape(result: GrantResult) -> Shape:
    return {
        "transfer_id": result.transfer_id,
        "amount_usd": format_usd(result.amount_nano),
        "balance_usd": format_usd(result.balance_nano),
    }


def key_shape(key: KeyRow) -> Shape:
    """A key without its secret, which only the answer to its creation holds."""
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "account_id": key.account_id,
        "user_id": key.user_id,
        "scopes": key.scopes,
        "models": key.models,
        "quotas": [quota_json(quota) for quota in key.quotas],
        "max_parallel_requests": key.max_parallel_requests,
        "tags": key.tags,
        "created_at": rfc3339(key.created_at),
        "expires_at": key.expires_at and rfc3339(key.expires_at),
        "last_used_at": key.last_used_at and rfc3339(key.last_used_at),
        "revoked_at": key.revoked_at and rfc3339(key.revoked_at),
    }


def balance_shape(principal: Principal, money: LiveBalance, credits_per_usd: int) -> Shape:
    """What is available is the balance without what is held, and as far below zero as the credit limit lets it go."""
    available_nano = money.balance_nano - money.held_nano + principal.credit_limit_nano
    return {
        "account_id": principal.account_id,
        "balance_usd": format_usd(money.balance_nano),
        "balance_credits": format_credits(money.balance_nano, credits_per_usd),
        "held_usd": format_usd(money.held_nano),
        "available_usd": format_usd(available_nano),
        "available_credits": format_credits(available_nano, credits_per_usd),
        "credit_limit_usd": format_usd(principal.credit_limit_nano),
        "status": principal.status,
        "plan": principal.plan.id,
    }


def transaction_shape(transaction: Transaction) -> Shape:
    return {
        "id": transaction.id,
        "kind": transaction.kind,
        "amount_usd": format_usd(transaction.amount_nano),
        "request_id": transaction.request_id,
        "idempotency_key": transaction.idempotency_key,
        "note": transaction.note,
        "created_at": rfc3339(transaction.created_at),
    }


def totals_shape(totals: UsageTotals) -> Shape:
    """`cost_usd` is what was charged."""
    return {
        "events": totals.events,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "total_tokens": totals.total_tokens,
        "cost_usd": format_usd(totals.charged_nano),
    }
