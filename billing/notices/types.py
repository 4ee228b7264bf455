"""What there are notices of. Apart from what writes them, so that clients of the API know it without a database."""

from typing import Final, Literal, get_args

NoticeType = Literal[
    "balance.low",
    "budget.threshold",
    "quota.exhausted",
    "auto_recharge.failed",
    "payment.succeeded",
    "payment.failed",
    "payment.refunded",
    "payment.disputed",
    "subscription.changed",
    "subscription.past_due",
    "subscription.ended",
    "key.created",
    "key.revoked",
    "key.leaked",
    "endpoint.disabled",
    "provider.difference",
    "test",
]
"""What there are notices of. `endpoint.disabled`: deliveries to an endpoint have failed for long;
`provider.difference` is for operators alone; `test`: asked for."""
TYPES: Final[tuple[NoticeType, ...]] = get_args(NoticeType)
