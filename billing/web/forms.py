"""Forms: what several pages read out of fields, and lay out in them, and where forms that begin a payment lead. A limit
is a row of fields, and a text of several lines or commas a list.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from billing.identity.providers import CONSOLE
from billing.ledger.sums import Grouping, UsageQueryError
from billing.payments.port import origin_of
from billing.permissions import BILLING_READ
from billing.quotas import Metric, Window, names_model
from billing.times import Period, period_of, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiohttp import web

    from billing.schemas.keys import KeyShape
    from billing.schemas.payments import OrderShape
    from billing.schemas.quotas import QuotaShape
    from billing.web.pages import Visit

# The model of examples where none is known: that of the local provider.
EXAMPLE_MODEL: Final = "demo"
# Empty rows below the limits that there are.
BLANK_ROWS: Final = 2
METRICS: Final = (
    (Metric.cost.name, "dollars"),
    (Metric.requests.name, "requests"),
    (Metric.tokens.name, "tokens"),
    (Metric.input_tokens.name, "input tokens"),
    (Metric.output_tokens.name, "output tokens"),
)
WINDOWS: Final = tuple((each, "in total" if each == Window.total.name else each) for each in Window.__members__)
# What a template with rows of limits needs in addition to the rows.
LIMIT_VALUES: Final[Mapping[str, Any]] = {"metrics": METRICS, "windows": WINDOWS}
MOST_DIGITS: Final = 20
_DIGITS: Final = re.compile("[0-9]{6}", re.ASCII)
_COLUMNS: Final = ("metric", "window", "limit", "model", "feature")


def texts(given: str) -> list[str]:
    """Return what stands on lines or between commas, each once."""
    return list(dict.fromkeys(each.strip() for each in given.replace(",", "\n").splitlines() if each.strip()))


def pairs(given: str) -> dict[str, str]:
    """Return NAME=VALUE of each line; a line without `=` is a name without a value."""
    lines = (each.partition("=") for each in given.splitlines() if each.strip())
    return {name.strip(): value.strip() for name, _, value in lines}


def count_typed(given: str) -> int | None:
    """Return a whole number that was typed; None for what is none, or has more digits than any number here."""
    return int(given) if given.isascii() and given.isdigit() and len(given) <= MOST_DIGITS else None


def quotas_typed(visit: Visit) -> list[dict[str, Any]]:
    """Return the limits of a form, as the API takes them: rows with an amount. An amount that is no number stays what
    it is, which is refused where quotas are read."""
    found = []
    for row in _rows_typed(visit):
        limit = row["limit"].strip().replace(",", "").lstrip("$")
        if limit:
            count = None if row["metric"] == Metric.cost.name else count_typed(limit)
            named = {name: row[name].strip() for name in ("model", "feature") if row[name].strip()}
            amount = limit if count is None else count
            found.append({"window": row["window"], "metric": row["metric"], "limit": amount, **named})
    return found


def _rows_typed(visit: Visit) -> list[dict[str, str]]:
    columns = (visit.form.getall(f"quota_{name}", []) for name in _COLUMNS)
    return [dict(zip(_COLUMNS, row, strict=True)) for row in zip_longest(*columns, fillvalue="")]


def quota_rows(visit: Visit, quotas: Iterable[QuotaShape] = ()) -> list[dict[str, Any]]:
    """Return the rows of fields for some limits, or for those that were typed, with empty ones below."""
    blank = {"metric": "cost", "window": "month", "limit": "", "model": "", "feature": ""}
    typed = _rows_typed(visit)
    if not typed:
        typed = [
            {
                "metric": each.metric,
                "window": each.window,
                "limit": str(each.limit),
                "model": each.model or "",
                "feature": each.feature or "",
            }
            for each in quotas
        ]
    kept = [row for row in typed if row["limit"].strip()]
    return [{**row, "number": number} for number, row in enumerate([*kept, *[blank] * BLANK_ROWS], 1)]


def may_return(visit: Visit, path: str) -> str | None:
    """Return the address of a page, for a provider's page to lead back to; None where payers may not be sent there:
    they are sent to the usual one."""
    payments, where = visit.services.payments, f"{visit.services.browsers.rules.url}{CONSOLE}{path}"
    return where if payments is not None and origin_of(where) in payments.flows.rules.origins else None


def to_order(visit: Visit, order: OrderShape | None, back: str = "") -> web.Response:
    """Return what leads to the page of an order, which has the link to where it is paid, and from there to the page
    that it is bought for."""
    return visit.see("/credit/orders" if order is None else f"/credit/orders/{order.id}", back=back)


def factor_typed(visit: Visit, name: str) -> dict[str, str]:
    """Return the second factor that was typed: six digits are of the app, all else is a recovery code."""
    given = visit.field(name)
    return {} if given is None else {"totp" if _DIGITS.fullmatch(given) else "recovery_code": given}


async def spent_by(visit: Visit, what: str) -> tuple[str, dict[str | None, int] | None]:
    """Return when this month began, and what each key or user (`what`) has spent since, in nano-USD, by one query. None
    where the visitor may not see that, or there are too many for one."""
    now = datetime.fromtimestamp(visit.services.clock(), UTC)
    since = period_of(now, Period.month, visit.zone)
    if not visit.may(BILLING_READ):
        return rfc3339(since), None
    bounds = since, (now + timedelta(days=1)).replace(second=0, microsecond=0)
    try:
        (span,) = await visit.services.reports.sums.spans(visit.account_id, bounds, Grouping((what,)))
    except UsageQueryError:
        return rfc3339(since), None
    return rfc3339(since), {group[0]: used.charged_nano for group, used in span.items()}


def examples(visit: Visit, key: KeyShape | None = None) -> dict[str, str]:
    """Return the base URL of requests, and a model that a key may use for an example."""
    may = [name for name in models_of(visit) if key is None or names_model(_patterns(key), name)]
    return {"base_url": f"{visit.services.browsers.rules.url}/v1", "model": next(iter(may), EXAMPLE_MODEL)}


def models_of(visit: Visit) -> list[str]:
    """Return the models that the account's plan has."""
    plan = None if visit.account is None else visit.services.plans.get(visit.account.plan)
    return [each.id for each in visit.services.models(plan) if plan is None or names_model(plan.models, each.id)]


def _patterns(key: KeyShape) -> tuple[str, ...] | None:
    return None if key.models is None else tuple(key.models)
