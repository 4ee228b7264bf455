"""Quotas as text: `window:metric=limit`, with `@model` for some models alone. Pure.

day:tokens=100000      month:cost=12.50      minute:requests=60@gpt-4*
"""

import re
from collections.abc import Iterable
from typing import Final, cast

import typer

from billing.client_shapes import QuotaShape
from billing.quotas import Metric, QuotaError, parse_quota, quota_json

_QUOTA: Final = re.compile(r"(?P<window>[^:=@]+):(?P<metric>[^:=@]+)=(?P<limit>[^@]+)(?:@(?P<model>.+))?")
EXPECTED: Final = "expected window:metric=limit, such as day:tokens=100000 or month:cost=12.50@gpt-4*"


def parse_quota_text(text: str) -> QuotaShape:
    """A quota as the API takes it. Raises `QuotaError`."""
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise QuotaError(EXPECTED)
    said: dict[str, object] = {name: value for name, value in match.groupdict().items() if value is not None}
    limit = match["limit"]
    if match["metric"] != Metric.cost.name and limit.isascii() and limit.isdigit():
        said["limit"] = int(limit)
    return cast(QuotaShape, quota_json(parse_quota(said)))


def quotas_of(texts: Iterable[str]) -> list[QuotaShape]:
    """The quotas of an option given several times. Raises `typer.BadParameter`, which names the wrong one."""
    quotas = []
    for text in texts:
        try:
            quotas.append(parse_quota_text(text))
        except QuotaError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint="--quota") from error
    return quotas


def quota_text(quota: QuotaShape) -> str:
    """The text of a quota, as `parse_quota_text` reads it; a feature, which it has no text for, stands in brackets."""
    model = f"@{quota['model']}" if "model" in quota else ""
    feature = f" [{quota['feature']}]" if "feature" in quota else ""
    return f"{quota['window']}:{quota['metric']}={quota['limit']}{model}{feature}"


def quotas_text(quotas: Iterable[QuotaShape]) -> str:
    """Several in one cell."""
    return ", ".join(map(quota_text, quotas)) or "none"
