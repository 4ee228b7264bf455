"""What may be bought: plans.yaml into `Plan`s, and the `payments` of metergate.yaml.

The plans' own rules are `billing.plans`'; this file owns how the file says them. Payments are what may be bought at
once, and where payers may be sent afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from billing.money import MAX_NANO, NANO_PER_CENT, NANO_PER_USD, MoneyError, parse_positive_usd, parse_usd
from billing.payments.return_urls import origin_of
from billing.payments.stripe.parameters import CheckoutRules
from billing.plans import MAX_TOOL_CALLS, Plan
from billing.pricing.scales import parse_factor
from billing.quotas import Quota, QuotaError, check_quotas, parse_quota
from gateway.config.problems import nearest
from gateway.config.source import Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.config.source import Section


EVERY_MODEL: Final = "*"
MAX_USERS: Final = 1_000_000
MAX_PARALLEL: Final = 1_000_000
MAX_QUEUE_S: Final = 600
_PLAN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_QUOTA_KEYS: Final = ("window", "metric", "limit", "model", "feature")
MAX_VERSION: Final = 1_000_000_000
VERSION: Final = "version"
_PLAN_KEYS: Final = (
    "name",
    "price_usd",
    "quotas",
    "included_credit_usd",
    "included_credit",
    "features",
    "models",
    "users",
    "max_parallel_requests",
    "admission_queue_s",
    "default_tool_calls",
    "markup_percent",
    "stripe_price",
    "upgrade_to",
)
EXPIRES, ROLLS_OVER = "expires", "rolls_over"
"""Whether included credit ends with the period that brought it."""
MAX_FEATURES: Final = 100
MAX_UNITS: Final = 1_000_000_000_000
_FEATURE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)


def read_plans(at: Value, models: Collection[str]) -> dict[str, Plan]:
    """Return the plans by id; a wrong one is a problem and left out. `models` are the names of metergate.yaml's
    entries."""
    entries = {name: value for name, value in at.entries().items() if name != VERSION or value.is_mapping}
    plans = {}
    for plan_id, value in entries.items():
        if not _PLAN_ID.fullmatch(plan_id):
            value.problem("a plan's id is lower-case letters, digits, '_' and '-'")
        plan = _read_plan(plan_id, value, entries, models)
        if plan is not None:
            plans[plan_id] = plan
    return plans


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


def _read_plan(plan_id: str, value: Value, plans: Collection[str], models: Collection[str]) -> Plan | None:
    section = value.section(_PLAN_KEYS, ("name", "price_usd"))
    upgrade_to = section.maybe("upgrade_to", Value.text)
    if upgrade_to is not None and (upgrade_to not in plans or upgrade_to == plan_id):
        others = [each for each in plans if each != plan_id]
        section.values["upgrade_to"].expected("another plan of this file", nearest(upgrade_to, others))
    name = section.read("name", Value.text, "")
    price_nano = section.read("price_usd", _usd, 0)
    quotas = section.maybe("quotas", _quotas) or ()
    allowed = section.maybe("models", lambda value: _models(value, models))
    parallel = section.maybe("max_parallel_requests", lambda value: value.whole(1, MAX_PARALLEL))
    queue_s = section.read("admission_queue_s", lambda value: value.whole(0, MAX_QUEUE_S), 0)
    tool_calls = section.maybe("default_tool_calls", lambda value: value.whole(1, MAX_TOOL_CALLS))
    credit_nano = section.read("included_credit_usd", _usd, 0)
    lasts = section.maybe("included_credit", lambda value: value.choice((EXPIRES, ROLLS_OVER)))
    features = section.maybe("features", _features) or ()
    users = section.maybe("users", lambda value: value.whole(1, MAX_USERS))
    markup = section.read("markup_percent", lambda value: value.decimal(parse_factor, "20"), 0)
    stripe_price = section.maybe("stripe_price", Value.text)
    if not section.ok:
        return None
    return Plan(
        id=plan_id,
        name=name,
        price_nano=price_nano,
        quotas=quotas,
        models=allowed,
        max_parallel_requests=parallel,
        included_credit_nano=credit_nano,
        users=users,
        markup_scaled=markup,
        stripe_price=stripe_price,
        upgrade_to=upgrade_to,
        admission_queue_s=queue_s,
        credit_rolls_over=lasts == ROLLS_OVER,
        features=features,
        default_tool_calls=tool_calls,
    )


def _usd(value: Value) -> int | None:
    return value.decimal(parse_price, "99")


def parse_price(value: object) -> int:
    """Return nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(value)
    if nano < 0:
        raise MoneyError("an amount that is not below zero")
    return nano


def _models(value: Value, known: Collection[str]) -> tuple[str, ...] | None:
    """Return names of entries, `prefix*`, or `provider/model`; None, which allows every model, for or with `*`."""
    if value.is_string and value.text() == EVERY_MODEL:
        return None
    names = value.names("a model's name")
    for name in names:
        if name not in known and not name.endswith("*") and "/" not in name:
            value.problem(f"{name} is no entry of metergate.yaml's models{nearest(name, known)}")
    return None if EVERY_MODEL in names else names


def _features(value: Value) -> tuple[tuple[str, bool | int], ...]:
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


def _quotas(value: Value) -> tuple[Quota, ...]:
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


_SWITCHES: Final = ("automatic_tax", "tax_id_collection", "invoice_creation")
_KEYS: Final = (
    *("min_usd", "max_usd", "setup_usd", "allowed_origins", *_SWITCHES),
    *("credit_expires_days", "low_balance_usd", "auto_recharge_declines", "open_pages"),
)
MOST_DAYS: Final = 3650
MOST_DECLINES: Final = 10
MOST_OPEN_PAGES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsConfig:
    """Bounds of an order in cents, what a setup sells unless it is told, and origins that payers may be sent to beside
    those of FRONTEND_URL and CORS_ORIGINS. Purchased credit lasts for `credit_expires_days`, None: for ever; below
    `low_balance_nano` an account is told; after `auto_recharge_declines` auto-recharge stops. Of an
    account's pages the `open_pages` newest can be paid at. `checkout` is what Stripe's pages do beside taking the
    money."""

    min_cents: int = 500
    max_cents: int = 1_000_000
    setup_cents: int = 2_000
    allowed_origins: tuple[str, ...] = ()
    credit_expires_days: int | None = None
    low_balance_nano: int = 5 * NANO_PER_USD
    auto_recharge_declines: int = 3
    open_pages: int = 20
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
    pages = section.maybe("open_pages", lambda value: value.whole(1, MOST_OPEN_PAGES))
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
        open_pages=pages or usual.open_pages,
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
