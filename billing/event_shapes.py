"""A usage event, and a refusal, as the API and `metergate explain` show them. Fields may be added, none renamed or
removed. Pure."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.ledger.explanations import FACTOR_DECIMALS, Explanation, UsageEvent, decimal, exact_usd
from billing.money import format_usd
from billing.prices import PriceLine
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.refused import RefusedRequest

Shape = dict[str, object]
UNITS: Final = ("images", "seconds", "characters", "searches")


def event_shape(event: UsageEvent) -> Shape:
    """`cost_usd` is the provider's, `charged_usd` the customer's; `created_at` is when the request was admitted."""
    usage = event.usage
    return {
        "id": event.request_id,
        "created_at": rfc3339(event.admitted_at),
        "account_id": event.account_id,
        "user_id": event.user_id,
        "key_id": event.key_id,
        "endpoint": event.endpoint,
        "feature": event.feature,
        "model": event.model,
        "provider": event.provider,
        "provider_model": event.provider_model,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "total_tokens": usage.total_tokens,
        "units": {name: count for name in UNITS if (count := getattr(usage, name))},
        "cost_usd": format_usd(event.cost_nano),
        "charged_usd": format_usd(event.charged_nano),
        "price_id": event.price_id,
        "estimated": event.estimated,
        "status": event.status,
        "outcome": event.outcome,
        "stream": event.stream,
        "latency_ms": event.latency_ms,
        "ttft_ms": event.ttft_ms,
        "tags": event.tags,
        "end_user": event.end_user,
        "client_request_id": event.client_request_id,
        "upstream_request_id": event.upstream_request_id,
        "note": event.note,
    }


def explanation_shape(explanation: Explanation) -> Shape:
    """An event with its lines; without any where its amount was not made from counts."""
    event = explanation.event
    return {
        **event_shape(event),
        "multiplier": event.multiplier,
        "multiplier_factor": decimal(explanation.factor_scaled, FACTOR_DECIMALS),
        "markup_percent": decimal(event.markup_scaled, FACTOR_DECIMALS),
        "lines": [_line_shape(line) for line in explanation.lines] if explanation.adds_up else [],
    }


def _line_shape(line: PriceLine) -> Shape:
    return {
        "class": line.price_class,
        "quantity": line.quantity,
        "price_usd_per_million" if line.per_million else "price_usd": format_usd(line.rate_nano),
        "amount_usd": exact_usd(line.amount_scaled),
    }


def refusal_shape(refused: "RefusedRequest") -> Shape:
    """What is kept of a refusal. Fields may be added."""
    return {
        "id": refused.id,
        "created_at": rfc3339(datetime.fromtimestamp(refused.at_ms / 1000, UTC)),
        "account_id": refused.account_id,
        "key_id": refused.key_id,
        "endpoint": refused.endpoint,
        "model": refused.model,
        "status": refused.status,
        "code": refused.code,
        "message": refused.message,
        "details": refused.details,
    }
