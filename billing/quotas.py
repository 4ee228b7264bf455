"""Quotas: windows, metrics, limits, and the calendar that windows follow. Pure: the time is always passed in.

Windows are calendar windows in UTC, weeks begin on Monday, `total` has no end. Every counter has a `tag`, 32 bits that
encode its window, its metric and a digest of its filter; counters of one subject with the same tag are the same
counter. The scripts in `holds/lua` read window and metric out of the tag, so its layout is part of the state.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

from billing.errors import MetergateError
from billing.money import MAX_NANO, MoneyError, format_usd, parse_usd

# The most calls of tools at the provider that a request is granted where it does not bound them itself.
MAX_TOOL_CALLS: Final = 64


DEFAULT_FEATURE: Final = "llm"
# At most this many quotas on one key, plan or account: state is read and written whole.
MAX_QUOTAS: Final = 32
MAX_NAME: Final = 200

# 1970-01-01 was a Thursday; the Monday of its week was three days before.
WEEK_OFFSET_DAYS: Final = 3
DAY_S: Final = 86_400


class Window(IntEnum):
    """A window's code in a tag. Codes are stored: new ones are appended, and `windows_at` of `holds/lua/_state.lua`
    answers by them."""

    minute = 0
    hour = 1
    day = 2
    week = 3
    month = 4
    total = 5


class Metric(IntEnum):
    """A metric's code in a tag."""

    requests = 0
    tokens = 1
    input_tokens = 2
    output_tokens = 3
    cost = 4


# By which rollups a window is summed: of minutes, hours, days or months (`usage_rollups.granularity`).
GRANULARITY: Final[Mapping[Window, int]] = {
    Window.minute: 0,
    Window.hour: 1,
    Window.day: 2,
    Window.week: 2,
    Window.month: 3,
    Window.total: 3,
}
# Windows of which an account is notified once they are used up: shorter ones reset before anybody reads a mail.
NOTIFIED_WINDOWS: Final = frozenset((Window.day, Window.week, Window.month, Window.total))
# The year 9999, for what never resets.
NO_END_S: Final = 253_402_300_799


class QuotaError(MetergateError, ValueError):
    """An invalid quota; the message says what was expected."""

    kind, field = "invalid", "quotas"


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` (nano-USD for `cost`) of a metric in a window. `model` is an exact name or `prefix*`."""

    window: Window
    metric: Metric
    limit: int
    model: str | None = None
    feature: str = DEFAULT_FEATURE

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= MAX_NANO:
            raise QuotaError(f"limit must be from 0 to {MAX_NANO}")
        for name in (DEFAULT_FEATURE if self.model is None else self.model, self.feature):
            if not 0 < len(name) <= MAX_NAME:
                raise QuotaError(f"model and feature are names of 1 to {MAX_NAME} characters")
        if self.model is not None and "*" in self.model[:-1]:
            raise QuotaError("model is an exact name or a prefix with one * at its end")

    @property
    def tag(self) -> int:
        """Return the tag: window in bits 0-2, metric in bits 3-5, filter in bits 6-30 (0: everything); bit 31 is the
        state's own."""
        return self.window | self.metric << 3 | filter_digest(self.model, self.feature) << 6

    def applies_to(self, model: str, feature: str = DEFAULT_FEATURE) -> bool:
        """Return whether a request on this resolved model entry counts."""
        if feature != self.feature:
            return False
        if self.model is None or self.model == model:
            return True
        return self.model.endswith("*") and model.startswith(self.model[:-1])


def filter_digest(model: str | None, feature: str) -> int:
    """Return 25 bits of a filter, 0 for none; two filters of one subject that collide are refused by `check_quotas`."""
    if model is None and feature == DEFAULT_FEATURE:
        return 0
    return zlib.crc32(f"{feature}\0{model or ''}".encode()) % (2**25 - 1) + 1


def parse_quota(value: object) -> Quota:
    """Parse a quota from JSON or YAML: `{"window", "metric", "limit"}` and optionally `"model"`, `"feature"`.

    `limit` is an integer, or a decimal USD string for `cost`. Raises `QuotaError`.
    """
    if not isinstance(value, Mapping):
        raise QuotaError('a quota is an object such as {"window": "day", "metric": "tokens", "limit": 100000}')
    unknown = set(value) - {"window", "metric", "limit", "model", "feature"}
    if unknown:
        raise QuotaError(f"a quota has window, metric, limit, model, feature, not {min(map(str, unknown))!r}")
    window, metric = value.get("window"), value.get("metric")
    if not isinstance(window, str) or window not in Window.__members__:
        raise QuotaError(f"window must be one of {', '.join(Window.__members__)}")
    if not isinstance(metric, str) or metric not in Metric.__members__:
        raise QuotaError(f"metric must be one of {', '.join(Metric.__members__)}")
    for name in ("model", "feature"):
        if value.get(name) is not None and not isinstance(value[name], str):
            raise QuotaError(f"{name} must be a string")
    limit = parse_limit(Metric[metric], value.get("limit"))
    return Quota(Window[window], Metric[metric], limit, value.get("model"), value.get("feature") or DEFAULT_FEATURE)


def parse_limit(metric: Metric, value: object) -> int:
    """Parse a limit in the metric's unit: nano-USD from a decimal string for `cost`, else an integer. Raises
    `QuotaError`."""
    if metric is Metric.cost:
        try:
            limit = parse_usd(value)
        except MoneyError as error:
            raise QuotaError(f"limit of cost: {error}") from error
    elif type(value) is int:
        limit = value
    elif type(value) is float and value.is_integer():  # 100.0 is an integer of JSON, as JSON Schema has it
        limit = int(value)
    else:
        raise QuotaError("limit must be an integer")
    if not 0 <= limit <= MAX_NANO:
        raise QuotaError("limit must not be below zero or beyond 2^53 - 1")
    return limit


def parse_quotas(value: object) -> tuple[Quota, ...]:
    """Parse a list of quotas. Raises `QuotaError` with the index in the list."""
    if not isinstance(value, list | tuple):
        raise QuotaError("quotas must be a list")
    quotas = []
    for index, item in enumerate(value):
        try:
            quotas.append(parse_quota(item))
        except QuotaError as error:
            raise QuotaError(f"quotas[{index}]: {error}") from error
    return check_quotas(quotas)


def check_quotas(quotas: Iterable[Quota]) -> tuple[Quota, ...]:
    """Check the quotas of one subject: bounded in number, one per counter, no two filters with one digest. Raises
    `QuotaError`."""
    checked = tuple(quotas)
    if len(checked) > MAX_QUOTAS:
        raise QuotaError(f"at most {MAX_QUOTAS} quotas")
    tags = {quota.tag for quota in checked}
    if len(tags) != len(checked):
        raise QuotaError("two quotas share window, metric and filter")
    return checked


def quota_json(quota: Quota) -> dict[str, object]:
    """Return the quota in its JSON shape (docs/api.md)."""
    limit = format_usd(quota.limit) if quota.metric is Metric.cost else quota.limit
    shape: dict[str, object] = {"window": quota.window.name, "metric": quota.metric.name, "limit": limit}
    if quota.model is not None:
        shape["model"] = quota.model
    if quota.feature != DEFAULT_FEATURE:
        shape["feature"] = quota.feature
    return shape


def window_id(window: Window, at_s: int) -> int:
    """Return the number of the window that holds a Unix time in whole seconds; equal ids are the same window."""
    match window:
        case Window.minute:
            return at_s // 60
        case Window.hour:
            return at_s // 3600
        case Window.day:
            return at_s // DAY_S
        case Window.week:
            return (at_s // DAY_S + WEEK_OFFSET_DAYS) // 7
        case Window.month:
            day = datetime.fromtimestamp(at_s, UTC)
            return day.year * 12 + day.month - 1
        case Window.total:
            return 0


def window_start_s(window: Window, at_s: int) -> int:
    """Return the Unix time at which the window that holds `at_s` began; 0 for `total`."""
    match window:
        case Window.minute:
            return at_s - at_s % 60
        case Window.hour:
            return at_s - at_s % 3600
        case Window.day:
            return at_s - at_s % DAY_S
        case Window.week:
            return (window_id(window, at_s) * 7 - WEEK_OFFSET_DAYS) * DAY_S
        case Window.month:
            day = datetime.fromtimestamp(at_s, UTC)
            return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
        case Window.total:
            return 0


def window_end_s(window: Window, at_s: int) -> int | None:
    """Return the Unix time at which the window that holds `at_s` resets; None for `total`."""
    match window:
        case Window.minute:
            return window_start_s(window, at_s) + 60
        case Window.hour:
            return window_start_s(window, at_s) + 3600
        case Window.day:
            return window_start_s(window, at_s) + DAY_S
        case Window.week:
            return window_start_s(window, at_s) + 7 * DAY_S
        case Window.month:
            day = datetime.fromtimestamp(at_s, UTC)
            years, month = divmod(day.month, 12)
            return int(datetime(day.year + years, month + 1, 1, tzinfo=UTC).timestamp())
        case Window.total:
            return None


def window_bounds_s(window: Window, at_s: int) -> tuple[int, int]:
    """Return the Unix seconds at which the window that holds `at_s` begins and ends. `total` has an end here, too: no
    usage is later, however far ahead a clock was that has left it."""
    end_s = window_end_s(window, at_s)
    return window_start_s(window, at_s), NO_END_S if end_s is None else end_s


def names_model(patterns: tuple[str, ...] | None, model: str) -> bool:
    """Return whether a model is one of these, which may end in `*`; None is every model."""
    if patterns is None:
        return True
    return any(model == pattern or (pattern.endswith("*") and model.startswith(pattern[:-1])) for pattern in patterns)
