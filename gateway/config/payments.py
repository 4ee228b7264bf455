"""The `payments` of metergate.yaml: what may be bought at once, and where payers may be sent afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from billing.money import MAX_NANO, NANO_PER_USD, MoneyError, parse_positive_usd, parse_usd
from billing.payments.objects import NANO_PER_CENT
from billing.payments.return_urls import origin_of
from billing.payments.stripe.parameters import CheckoutRules
from gateway.config.source import Value

if TYPE_CHECKING:
    from gateway.config.source import Section

_SWITCHES: Final = ("automatic_tax", "tax_id_collection", "invoice_creation")
_KEYS: Final = (
    *("min_usd", "max_usd", "setup_usd", "allowed_origins", *_SWITCHES),
    *("credit_expires_days", "low_balance_usd", "auto_recharge_declines"),
)
MOST_DAYS: Final = 3650
MOST_DECLINES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsConfig:
    """Bounds of an order in cents, what a setup sells unless it is told, and origins that payers may be sent to beside
    those of FRONTEND_URL and CORS_ORIGINS. Purchased credit lasts for `credit_expires_days`, None: for ever; below
    `low_balance_nano` an account is told; after `auto_recharge_declines` auto-recharge stops. `checkout` is what
    Stripe's pages do beside taking the money."""

    min_cents: int = 500
    max_cents: int = 1_000_000
    setup_cents: int = 2_000
    allowed_origins: tuple[str, ...] = ()
    credit_expires_days: int | None = None
    low_balance_nano: int = 5 * NANO_PER_USD
    auto_recharge_declines: int = 3
    checkout: CheckoutRules = field(default_factory=CheckoutRules)


def read_payments(at: Value | None) -> PaymentsConfig:
    """Return the section; what is left out is as by default."""
    if at is None:
        return PaymentsConfig()
    section, usual = at.section(_KEYS), PaymentsConfig()
    low = _cents(section, "min_usd", usual.min_cents)
    high = _cents(section, "max_usd", usual.max_cents)
    setup = _cents(section, "setup_usd", min(max(usual.setup_cents, low), high))
    origins = section.maybe("allowed_origins", lambda value: value.names("an origin")) or ()
    for origin in origins:
        if origin_of(origin) != origin:
            at.problem(f"allowed_origins: expected an origin such as https://app.example.com, got {origin[:100]!r}")
    if not low <= setup <= high:
        at.problem("setup_usd must lie between min_usd and max_usd")
    switches = {name: section.maybe(name, Value.truth) or False for name in _SWITCHES}
    days = section.maybe("credit_expires_days", lambda value: value.whole(1, MOST_DAYS))
    declines = section.maybe("auto_recharge_declines", lambda value: value.whole(1, MOST_DECLINES))
    low_balance = section.maybe("low_balance_usd", lambda value: value.decimal(_not_below_zero, "5.00"))
    if not section.ok:
        return usual
    return PaymentsConfig(
        min_cents=low,
        max_cents=high,
        setup_cents=setup,
        allowed_origins=tuple(origins),
        credit_expires_days=days,
        low_balance_nano=usual.low_balance_nano if low_balance is None else low_balance,
        auto_recharge_declines=declines or usual.auto_recharge_declines,
        checkout=CheckoutRules(**switches),
    )


def _not_below_zero(text: object) -> int:
    nano = parse_usd(text)
    if nano < 0:
        raise MoneyError("the amount must not be below zero")
    return nano


def _cents(section: Section, name: str, usual: int) -> int:
    """Return an amount in whole cents."""
    nano = section.maybe(name, lambda value: value.decimal(parse_positive_usd, "20.00"))
    if nano is None:
        return usual
    cents, rest = divmod(nano, NANO_PER_CENT)
    if rest or nano > MAX_NANO:
        section.values[name].problem("expected whole cents")
    return cents
