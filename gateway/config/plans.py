"""plans.yaml into `Plan`s. The plans' own rules are `billing.plans`'; this file owns how the file says them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from billing.money import MoneyError, parse_usd
from billing.plans import Plan
from billing.quotas import Quota, QuotaError, check_quotas, parse_quota
from billing.rates import parse_factor
from gateway.config.problems import nearest
from gateway.config.source import Value

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
