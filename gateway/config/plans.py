"""What may be bought: plans.yaml into `Plan`s, and the `payments` of metergate.yaml.

The plans' own rules are `billing.plans`'; this file owns how the file says them. Payments are what may be bought at
once, and where payers may be sent afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct, structs

from billing.money import MAX_NANO, NANO_PER_CENT, NANO_PER_USD, MoneyError, parse_positive_usd, parse_usd
from billing.payments.port import origin_of
from billing.payments.stripe.objects import CheckoutRules
from billing.plans import Plan
from billing.pricing import parse_factor
from billing.quotas import MAX_TOOL_CALLS, Quota, QuotaError, check_quotas, parse_quota
from gateway.config.source import decimal, nearest, read_by, read_section

if TYPE_CHECKING:
    from gateway.config.source import Value

EVERY_MODEL: Final = "*"
_PLAN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_QUOTA_KEYS: Final = ("window", "metric", "limit", "model", "feature")
MAX_VERSION: Final = 1_000_000_000
VERSION: Final = "version"
MAX_FEATURES: Final = 100
MAX_MARKUPS: Final = 1_000
MAX_UNITS: Final = 1_000_000_000_000
_FEATURE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)


def parse_price(value: object) -> int:
    """Return nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(value)
    if nano < 0:
        raise MoneyError("an amount that is not below zero")
    return nano


def _read_models(value: Value) -> tuple[str, ...]:
    return (EVERY_MODEL,) if value.is_string and value.text() == EVERY_MODEL else value.names("a model's name")


def _read_features(value: Value) -> tuple[tuple[str, bool | int], ...]:
    """Return features by name: true, false, or how many units of it there are in a period."""
    found: list[tuple[str, bool | int]] = []
    entries = value.entries()
    if len(entries) > MAX_FEATURES:
        value.problem(f"at most {MAX_FEATURES} features")
    for name, given in entries.items():
        if _FEATURE.fullmatch(name) is None:
            given.problem("a feature's name is lower-case letters, digits, '_', '.' and '-'")
        plain = given.plain()
        allowed = plain if isinstance(plain, bool) else given.whole(0, MAX_UNITS)
        if allowed is not None:
            found.append((name, allowed))
    return tuple(sorted(found))


def _read_markups(value: Value) -> tuple[tuple[str, int], ...]:
    """Return markups by the name of a model, or a prefix of names with a `*`."""
    entries = value.entries()
    if len(entries) > MAX_MARKUPS:
        value.problem(f"at most {MAX_MARKUPS} models")
    found = ((name, given.decimal(parse_factor, "20")) for name, given in entries.items())
    return tuple(sorted((name, markup) for name, markup in found if markup is not None))


def _read_quotas(value: Value) -> tuple[Quota, ...]:
    quotas = []
    for item in value.items():
        section = item.section(_QUOTA_KEYS, ("window", "metric", "limit"))
        given = {name: field.plain() for name, field in section.values.items()}
        if not section.ok:
            continue
        try:
            quotas.append(parse_quota(given))
        except QuotaError as error:
            item.problem(str(error))
    try:
        return check_quotas(quotas)
    except QuotaError as error:
        value.problem(str(error))
        return ()


Price = Annotated[int, decimal(parse_price, "99")]


class _Entry(Struct, frozen=True, rename={"price_nano": "price_usd", "included_credit_nano": "included_credit_usd"}):
    """A plan as the file has it."""

    name: str
    price_nano: Price
    quotas: Annotated[tuple[Quota, ...], read_by(_read_quotas)] = ()
    included_credit_nano: Price = 0
    included_credit: Literal["expires", "rolls_over"] = "expires"
    """Whether it ends with the period that brought it."""
    features: Annotated[tuple[tuple[str, bool | int], ...], read_by(_read_features)] = ()
    models: Annotated[tuple[str, ...], read_by(_read_models)] = (EVERY_MODEL,)
    """Names of entries, `prefix*`, or `provider/model`."""
    users: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_parallel_requests: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    admission_queue_s: Annotated[int, Meta(ge=0, le=600)] = 0
    default_tool_calls: Annotated[int, Meta(ge=1, le=MAX_TOOL_CALLS)] | None = None
    markup_percent: Annotated[int, decimal(parse_factor, "20")] = 0
    markups: Annotated[tuple[tuple[str, int], ...], read_by(_read_markups)] = ()
    stripe_price: str | None = None
    upgrade_to: str | None = None


def read_plans(at: Value, models: Collection[str]) -> dict[str, Plan]:
    """Return the plans by id; a wrong one is a problem and left out. `models` are the names of metergate.yaml's
    entries."""
    entries = {name: value for name, value in at.entries().items() if name != VERSION or value.is_mapping}
    plans = {}
    for plan_id, value in entries.items():
        if not _PLAN_ID.fullmatch(plan_id):
            value.problem("a plan's id is lower-case letters, digits, '_' and '-'")
        entry = read_section(value, _Entry)
        if entry is not None:
            _check_names(value, entry, [each for each in entries if each != plan_id], models)
            plans[plan_id] = _plan(plan_id, entry)
    return plans


def _check_names(value: Value, entry: _Entry, others: Collection[str], models: Collection[str]) -> None:
    """Note names of plans and models that there are not."""
    if entry.upgrade_to is not None and entry.upgrade_to not in others:
        value.entries()["upgrade_to"].expected("another plan of this file", nearest(entry.upgrade_to, others))
    for key, names in (("models", entry.models), ("markups", tuple(name for name, _ in entry.markups))):
        for name in names:
            if name not in models and not name.endswith("*") and "/" not in name:
                value.entries()[key].problem(f"{name} is no entry of metergate.yaml's models{nearest(name, models)}")


def _plan(plan_id: str, entry: _Entry) -> Plan:
    given = structs.asdict(entry)
    lasts, markup = given.pop("included_credit"), given.pop("markup_percent")
    if EVERY_MODEL in entry.models:
        given["models"] = None
    return Plan(id=plan_id, markup_scaled=markup, credit_rolls_over=lasts == "rolls_over", **given)


def with_stripe_prices(plans: Mapping[str, Plan], prices: Mapping[str, str | None]) -> dict[str, Plan]:
    """Return the plans, with Stripe's prices by plan id where the file gives them none."""
    return {
        plan_id: replace(plan, stripe_price=prices[plan_id])
        if plan.stripe_price is None and prices.get(plan_id) is not None
        else plan
        for plan_id, plan in plans.items()
    }


def read_plans_version(at: Value) -> int:
    """Return the file's own version: `version: 7` beside the plans; 0 where it says none, a problem where it is no
    number."""
    version = at.entries().get(VERSION) if VERSION in at.child_names else None
    return 0 if version is None or version.is_mapping else version.whole(0, MAX_VERSION) or 0


def _read_cents(value: Value) -> int | None:
    """Return an amount in whole cents."""
    nano = value.decimal(parse_positive_usd, "20.00")
    if nano is None:
        return None
    cents, rest = divmod(nano, NANO_PER_CENT)
    if rest or nano > MAX_NANO:
        value.problem("expected whole cents")
    return cents


def _read_origins(value: Value) -> tuple[str, ...]:
    origins = value.names("an origin")
    for origin in origins:
        if origin_of(origin) != origin:
            value.problem(f"expected an origin such as https://app.example.com, got {origin[:100]!r}")
    return origins


Cents = Annotated[int, read_by(_read_cents)]
_CENTS: Final = {"min_cents": "min_usd", "max_cents": "max_usd", "setup_cents": "setup_usd"}


class PaymentsConfig(Struct, frozen=True, kw_only=True, rename={**_CENTS, "low_balance_nano": "low_balance_usd"}):
    """Bounds of an order in cents, what a setup sells unless it is told (20 USD within the bounds), and origins that
    payers may be sent to beside those of FRONTEND_URL and CORS_ORIGINS. Purchased credit lasts for
    `credit_expires_days`, None: for ever; below `low_balance_nano` an account is told; after `auto_recharge_declines`
    auto-recharge stops. Of an account's pages the `open_pages` newest can be paid at. Stripe's pages may do three
    things beside taking the money."""

    min_cents: Cents = 500
    max_cents: Cents = 1_000_000
    setup_cents: Cents | None = None
    allowed_origins: Annotated[tuple[str, ...], read_by(_read_origins)] = ()
    automatic_tax: bool = False
    tax_id_collection: bool = False
    invoice_creation: bool = False
    credit_expires_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    low_balance_nano: Annotated[int, decimal(parse_price, "5.00")] = 5 * NANO_PER_USD
    auto_recharge_declines: Annotated[int, Meta(ge=1, le=10)] = 3
    open_pages: Annotated[int, Meta(ge=1, le=1_000)] = 20

    @property
    def sold_cents(self) -> int:
        """Return what a setup sells unless it is told."""
        return self.setup_cents or min(max(2_000, self.min_cents), self.max_cents)

    @property
    def checkout(self) -> CheckoutRules:
        """Return what Stripe's pages do beside taking the money."""
        return CheckoutRules(self.automatic_tax, self.tax_id_collection, self.invoice_creation)


def read_payments(at: Value | None) -> PaymentsConfig:
    """Return the section; what is left out is as by default."""
    found = None if at is None else read_section(at, PaymentsConfig)
    if at is None or found is None:
        return PaymentsConfig()
    if not found.min_cents <= found.sold_cents <= found.max_cents:
        at.problem("setup_usd must lie between min_usd and max_usd")
    return found
