"""Make the dashboards in deploy/grafana: `make dashboards`, then review the diff.

A panel is a title, a unit of Grafana's, and queries with the legend of their series. `{}` in a query stands for the
matcher that every query has. Series of an hour and of a quantile are those of deploy/prometheus/recording.yml.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).parent.parent / "deploy" / "grafana"
MATCHER: Final = 'job=~"$job"'
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
COLUMNS: Final = 24
HEIGHT: Final = {"stat": 4, "timeseries": 8}
WIDTH: Final = {"stat": 6, "timeseries": 12}
# Of the releases that read these files; later ones convert them.
SCHEMA_VERSION: Final = 39

Kind = Literal["stat", "timeseries"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are pairs of a query and the legend of its series; `help` is shown at the title."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Kind = "timeseries"
    help: str = ""


def _one(title: str, unit: str, query: str, legend: str = "", help: str = "") -> Panel:
    return Panel(title, unit, ((query, legend),), help=help)


def _stat(title: str, unit: str, query: str) -> Panel:
    return Panel(title, unit, ((query, ""),), "stat")


def _quantiles(title: str, metric: str, by: str = "") -> Panel:
    buckets = f"sum by ({by + ', ' if by else ''}le) (rate(metergate_{metric}_bucket{{}}[$__rate_interval]))"
    legend = f"{{{{{by}}}}} " if by else ""
    each = ((f"histogram_quantile({q / 100}, {buckets})", f"{legend}p{q}") for q in (50, 95, 99))
    return Panel(title, "s", tuple(each))


def _rate(metric: str, by: str, matcher: str = "") -> str:
    return f"sum by ({by}) (rate(metergate_{metric}_total{{{matcher}}}[$__rate_interval]))"


def _in_range(metric: str) -> str:
    return f"sum(increase(metergate_{metric}_nano_usd_total{{}}[$__range])) / 1e9"


def _hourly(what: str) -> str:
    return f"sum by (provider) (job_provider:metergate_{what}_usd:increase1h{{}})"


BUSINESS: Final = (
    _stat("Charged", "currencyUSD", _in_range("charged")),
    _stat("Cost at providers", "currencyUSD", _in_range("cost")),
    _stat("Margin", "currencyUSD", f"{_in_range('charged')} - {_in_range('cost')}"),
    _stat("Requests answered", "short", 'sum(increase(metergate_requests_total{status=~"2.."}[$__range]))'),
    _one("Charged in an hour", "currencyUSD", _hourly("charged"), "{{provider}}"),
    _one(
        "Charged in an hour, by model",
        "currencyUSD",
        "sum by (model) (increase(metergate_model_charged_nano_usd_total{}[1h])) / 1e9",
        "{{model}}",
    ),
    _one(
        "Charged in an hour, by plan",
        "currencyUSD",
        "sum by (plan) (increase(metergate_model_charged_nano_usd_total{}[1h])) / 1e9",
        "{{plan}}",
    ),
    _one("Cost in an hour", "currencyUSD", _hourly("cost"), "{{provider}}"),
    _one("Margin of an hour", "currencyUSD", _hourly("margin"), "{{provider}}"),
    _one(
        "Tokens",
        "short",
        "sum by (class) (job_provider_class:metergate_tokens:rate5m{})",
        "{{class}}",
        "A second. `input` includes `cached_input`, `output` includes `reasoning`.",
    ),
    _one(
        "Input from providers' caches",
        "percentunit",
        'sum by (provider) (job_provider_class:metergate_tokens:rate5m{class="cached_input"})'
        ' / (sum by (provider) (job_provider_class:metergate_tokens:rate5m{class="input"}) > 0)',
        "{{provider}}",
    ),
    _one(
        "Refused for want of credit or quota",
        "reqps",
        'sum by (code) (job_code:metergate_refusals:rate5m{code=~"billing_required|quota_exceeded|capacity_held"})',
        "{{code}}",
    ),
    Panel(
        "Payments",
        "short",
        (
            ("max(metergate_payment_events_waiting{})", "events that wait"),
            ("max(metergate_payment_events_parked{})", "events given up"),
            ("max(metergate_payments_parked{})", "payments without credit"),
            ("max(metergate_payments_undecided{})", "charges undecided"),
            ("max(metergate_payment_differences{})", "differences"),
        ),
    ),
    Panel(
        "Mails and notices that wait",
        "short",
        (("max(metergate_mails_waiting{})", "mails"), ("max(metergate_notices_waiting{})", "notices")),
    ),
    _one("Age of what exports have not sent", "s", "max by (export) (metergate_export_lag_seconds{})", "{{export}}"),
    _one("Parked by exports", "short", "max by (export) (metergate_export_parked{})", "{{export}}"),
)

TRAFFIC: Final = (
    _stat("Gateways that answer", "short", "count(metergate_workers{})"),
    _stat("Workers", "short", "sum(metergate_workers{})"),
    _stat("Requests/s", "reqps", "sum(job:metergate_requests:rate5m{})"),
    _stat("Errors", "percentunit", "max(job:metergate_request_errors:ratio5m{})"),
    _one("Requests by endpoint", "reqps", _rate("requests", "endpoint"), "{{endpoint}}"),
    _one("Answers by status", "reqps", _rate("requests", "status"), "{{status}}"),
    _one("Streams", "reqps", _rate("requests", "stream"), "stream: {{stream}}"),
    _one("Refused by the gateway", "reqps", _rate("refusals", "code"), "{{code}}"),
    Panel(
        "Running and waiting requests",
        "short",
        (("sum(metergate_holds_live{})", "running"), ("sum(metergate_requests_waiting{})", "waiting")),
    ),
    _quantiles("Until a stream's first byte", "time_to_first_byte_seconds"),
    _one("Clients' connections", "short", "sum by (instance) (metergate_connections{})", "{{instance}}"),
    _one("Connections closed for others", "cps", _rate("connections_ended", "awaited"), "awaited: {{awaited}}"),
    _one("Connections refused", "cps", _rate("connections_refused", "share"), "share: {{share}}"),
    _one("Request bodies in memory", "bytes", "sum by (instance) (metergate_body_bytes{})", "{{instance}}"),
)

PROVIDERS: Final = (
    _one("Requests", "reqps", "sum by (provider) (job_provider:metergate_requests:rate5m{})", "{{provider}}"),
    _one("Failed attempts", "reqps", _rate("failed_attempts", "provider, reason"), "{{provider}} {{reason}}"),
    _one("Refusals", "reqps", _rate("upstream_refusals", "provider, status"), "{{provider}} {{status}}"),
    _one("Targets left alone", "short", "max by (provider) (metergate_targets_open{})", "{{provider}}"),
    _quantiles("Until an answer's head", "upstream_latency_seconds", "provider"),
    _one(
        "Until a stream's first byte, p95",
        "s",
        "max by (provider) (job_provider:metergate_time_to_first_byte_seconds:p95_5m{})",
        "{{provider}}",
    ),
    _one("Output tokens/s", "short", _rate("tokens", "provider", 'class="output"'), "{{provider}}"),
    _one(
        "Charged by estimate",
        "percentunit",
        'sum(rate(metergate_settlements_total{estimated="true"}[$__rate_interval]))'
        " / (sum(rate(metergate_settlements_total{}[$__rate_interval])) > 0)",
        "share of charges",
    ),
    _one("Usage that is odd", "ops", _rate("usage_anomalies", "provider, anomaly"), "{{provider}} {{anomaly}}"),
    Panel(
        "Beyond what was expected",
        "ops",
        (
            ("sum(rate(metergate_hold_exceeded_total{}[$__rate_interval]))", "above its hold"),
            ("sum(rate(metergate_implausible_usage_total{}[$__rate_interval]))", "not believed"),
            ("sum(rate(metergate_tool_overruns_total{}[$__rate_interval]))", "cut for its tools"),
        ),
    ),
    _one("Tools of unknown types", "ops", _rate("unknown_tools", "type"), "{{type}}"),
)

STORES: Final = (
    _quantiles("Redis: taking a hold", "hold_latency_seconds"),
    _quantiles("Keeping a debit", "settle_latency_seconds"),
    _one("Holds that ended", "ops", _rate("settlements", "outcome"), "{{outcome}}"),
    _one("Debits on their way to Postgres", "short", "sum by (instance) (metergate_debits_waiting{})", "{{instance}}"),
    Panel(
        "Must be zero",
        "short",
        (
            ("max(metergate_debits_hindered{})", "Postgres takes no debits"),
            ("max(metergate_accounts_locked{})", "accounts locked"),
            ("max(metergate_debits_set_aside{})", "debits set aside"),
            ("max(metergate_reconcile_drifts{})", "Redis differs from the ledger"),
            ("max(metergate_prices_unreadable{})", "prices unreadable"),
        ),
    ),
    _one("Redis's and Postgres's clocks differ by", "s", "max(metergate_store_clock_difference_seconds{})", "seconds"),
    _one("The replica for reports is behind by", "s", "max(metergate_replica_lag_seconds{})", "seconds"),
    _one("Loops that failed", "ops", _rate("loop_failures", "loop"), "{{loop}}"),
    _one("Revision of the plans", "short", "max by (instance) (metergate_plans_revision{})", "{{instance}}"),
    _one("Keys in memory", "short", "sum by (instance) (metergate_principals_cached{})", "{{instance}}"),
    Panel(
        "Not kept",
        "short",
        (
            ("sum(metergate_refusals_dropped{})", "refusals"),
            ("sum(metergate_request_log_dropped{})", "lines of the request log"),
            ("sum(metergate_traces_dropped{})", "traces"),
            ("sum(metergate_body_logs_dropped{})", "bodies"),
        ),
    ),
)

DASHBOARDS: Final = {"business": BUSINESS, "traffic": TRAFFIC, "providers": PROVIDERS, "stores": STORES}


def dashboard(name: str) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    made: list[dict[str, Any]] = []
    x = y = 0
    for panel in DASHBOARDS[name]:
        width, height = WIDTH[panel.kind], HEIGHT[panel.kind]
        made.append(_panel(len(made) + 1, panel, {"x": x, "y": y, "w": width, "h": height}))
        x += width
        if x >= COLUMNS:
            x, y = 0, y + height
    return {
        "uid": f"metergate-{name}",
        "title": f"Metergate: {name}",
        "tags": ["metergate"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "30s",
        "time": {"from": "now-24h" if name == "business" else "now-3h", "to": "now"},
        "templating": {"list": [_source(), _job()]},
        "panels": made,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _job() -> dict[str, Any]:
    query = "label_values(metergate_workers, job)"
    more = {"includeAll": True, "multi": True, "refresh": 2, "current": {"text": ["All"], "value": ["$__all"]}}
    return {"name": "job", "label": "Job", "type": "query", "datasource": SOURCE, "query": query, **more}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": _matched(query), "legendFormat": legend}
        for at, (query, legend) in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0} if panel.unit == "percentunit" else {"unit": panel.unit}
    made = {"id": number, "type": panel.kind, "title": panel.title, "datasource": SOURCE, "gridPos": place}
    described = {"description": panel.help} if panel.help else {}
    return {**made, **described, "fieldConfig": {"defaults": defaults, "overrides": []}, "targets": targets}


def _matched(query: str) -> str:
    """Return a query whose every selector has the matcher: `{}` by itself, `{a="b"}` beside its own."""
    return query.replace("{}", f"{{{MATCHER}}}").replace("{", f"{{{MATCHER},").replace(f"{MATCHER},{MATCHER}", MATCHER)


def text(name: str) -> str:
    """Return the file of a dashboard."""
    return json.dumps(dashboard(name), indent=2) + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name))


if __name__ == "__main__":
    main()
