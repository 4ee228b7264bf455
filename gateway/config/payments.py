"""The `payments` of metergate.yaml: what may be bought at once, and where payers may be sent afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.money import MAX_NANO, parse_positive_usd
from billing.payments.objects import NANO_PER_CENT
from billing.payments.return_urls import origin_of

if TYPE_CHECKING:
    from gateway.config.source import Section, Value

_KEYS: Final = ("min_usd", "max_usd", "setup_usd", "allowed_origins")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsConfig:
    """Bounds of an order in cents, what a setup sells unless it is told, and origins that payers may be sent to beside
    those of FRONTEND_URL and CORS_ORIGINS."""

    min_cents: int = 500
    max_cents: int = 1_000_000
    setup_cents: int = 2_000
    allowed_origins: tuple[str, ...] = ()


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
    if not section.ok:
        return usual
    return PaymentsConfig(min_cents=low, max_cents=high, setup_cents=setup, allowed_origins=tuple(origins))


def _cents(section: Section, name: str, usual: int) -> int:
    """Return an amount in whole cents."""
    nano = section.maybe(name, lambda value: value.decimal(parse_positive_usd, "20.00"))
    if nano is None:
        return usual
    cents, rest = divmod(nano, NANO_PER_CENT)
    if rest or nano > MAX_NANO:
        section.values[name].problem("expected whole cents")
    return cents
