"""`deploy/prometheus`: each alert fires on what it is about, none fires on a gateway that is well (`promtool`)."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml

from gateway.endpoints.site import anchor
from tests.support.commands import CHECKOUT
from tests.support.programs import program

FOLDER = CHECKOUT / "deploy" / "prometheus"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
RULES = FOLDER / "recording.yml", FOLDER / "alerts.yml"
MINUTES = 40
# Alerts that are made to fire together: so many neighbours of an alert are not among them.
TOGETHER = 8
# Waits for six hours before it fires.
PATIENT = "MetergateUsageMonthsKept"
Series = Mapping[str, str]

# Series of a gateway that is well, a value a minute, as promtool writes them.
WELL = {
    "up": "1x40",
    'requests_total{status="200",provider="openai"}': "0+600x40",
    'requests_total{status="503",provider=""}': "0x40",
    'settlements_total{outcome="settled",estimated="false"}': "0+600x40",
    'settlements_total{outcome="settled",estimated="true"}': "0+6x40",
    'settlements_total{outcome="direct_write",estimated="false"}': "0x40",
    'settlements_total{outcome="lost",estimated="false"}': "0x40",
    'refusals_total{code="quota_exceeded"}': "0+60x40",
    'upstream_refusals_total{provider="openai",status="400"}': "0+60x40",
    'failed_attempts_total{provider="openai",reason="500"}': "0+6x40",
    'targets_open{provider="openai"}': "0 1 0x38",
    'time_to_first_byte_seconds_bucket{provider="openai",le="10.0"}': "0+600x40",
    'time_to_first_byte_seconds_bucket{provider="openai",le="+Inf"}': "0+600x40",
    'hold_latency_seconds_bucket{le="0.005"}': "0+600x40",
    'hold_latency_seconds_bucket{le="+Inf"}': "0+600x40",
    'settle_latency_seconds_bucket{le="0.005"}': "0+600x40",
    'settle_latency_seconds_bucket{le="+Inf"}': "0+600x40",
    'connections_ended_total{awaited="request"}': "0+6000x40",
    'connections_ended_total{awaited="head"}': "0+60x40",
    'connections_refused_total{share="address"}': "5x40",
    'cost_nano_usd_total{provider="openai"}': "0+1000000000x40",
    'charged_nano_usd_total{provider="openai"}': "0+1200000000x40",
    'provider_difference_usd{provider="openai"}': "0x40",
    "hold_exceeded_total": "7x40",
    "implausible_usage_total": "7x40",
    'usage_anomalies_total{provider="openai",anomaly="field"}': "7x40",
    'unknown_tools_total{type="teleport"}': "7x40",
    "tool_overruns_total": "7x40",
    "debits_waiting": "900x40",
    "debits_hindered": "0x40",
    "accounts_locked": "0x40",
    "debits_set_aside": "0x40",
    "reconcile_drifts": "0x40",
    "store_clock_difference_seconds": "0.01x40",
    "replica_lag_seconds": "1x40",
    "request_log_dropped": "7x40",
    "traces_dropped": "7x40",
    "body_logs_dropped": "7x40",
    "prices_unreadable": "0x40",
    "usage_months_kept": "0x40",
    "mail_lag_seconds": "2x40",
    'export_lag_seconds{export="lago"}': "3600x40",
    'export_parked{export="lago"}': "0x40",
    "payment_event_lag_seconds": "3x40",
    "payment_events_parked": "0x40",
    "payment_differences": "0x40",
    "payments_parked": "0x40",
    "payments_undecided": "0x40",
    "collect_lag_seconds": "60x40",
    "workers": "4x40",
    'loop_failures_total{loop="mail"}': "1x40",
}
# What each alert is about: series that replace those of a gateway that is well, or are beside them.
ILL = {
    "MetergateDown": {"up": "1 0x40"},
    "MetergateErrors": {'requests_total{status="503",provider=""}': "0+60x40"},
    "MetergateRefusing": {'refusals_total{code="temporarily_unavailable"}': "0+6x40"},
    "MetergateProviderKeyRefused": {'upstream_refusals_total{provider="openai",status="401"}': "0+1x40"},
    "MetergateProviderRefusing": {'upstream_refusals_total{provider="openai",status="429"}': "0+12x40"},
    "MetergateProviderFailing": {'failed_attempts_total{provider="openai",reason="timeout"}': "0+70x40"},
    "MetergateTargetOpen": {'targets_open{provider="openai"}': "1x40"},
    "MetergateProviderSlow": {
        'time_to_first_byte_seconds_bucket{provider="openai",le="10.0"}': "0+500x40",
        'time_to_first_byte_seconds_bucket{provider="openai",le="20.0"}': "0+600x40",
    },
    "MetergateConnectionsUnfinished": {'connections_ended_total{awaited="body"}': "0+700x40"},
    "MetergateConnectionsRefused": {'connections_refused_total{share="address"}': "0+1x40"},
    "MetergateCostHigh": {
        'cost_nano_usd_total{provider="openai"}': "0+20000000000x40",
        'charged_nano_usd_total{provider="openai"}': "0+20000000000x40",
    },
    "MetergateChargedBelowCost": {'charged_nano_usd_total{provider="openai"}': "0+900000000x40"},
    "MetergateProviderBillDiffers": {'provider_difference_usd{provider="openai"}': "3.5x40"},
    "MetergateHoldSlow": {
        'hold_latency_seconds_bucket{le="0.05"}': "0+600x40",
        'hold_latency_seconds_bucket{le="0.1"}': "0+620x40",
        'hold_latency_seconds_bucket{le="+Inf"}': "0+620x40",
    },
    "MetergateSettleSlow": {
        'settle_latency_seconds_bucket{le="0.25"}': "0+600x40",
        'settle_latency_seconds_bucket{le="0.5"}': "0+620x40",
        'settle_latency_seconds_bucket{le="+Inf"}': "0+620x40",
    },
    "MetergateDebitLost": {'settlements_total{outcome="lost",estimated="false"}': "0x37 1x3"},
    "MetergateDirectWrites": {'settlements_total{outcome="direct_write",estimated="false"}': "0+2x40"},
    "MetergateUsageEstimated": {'settlements_total{outcome="settled",estimated="true"}': "0+60x40"},
    "MetergateHoldExceeded": {"hold_exceeded_total": "0+1x40"},
    "MetergateImplausibleUsage": {"implausible_usage_total": "0+1x40"},
    "MetergateUsageAnomalies": {'usage_anomalies_total{provider="openai",anomaly="field"}': "0+1x40"},
    "MetergateUnknownTools": {'unknown_tools_total{type="teleport"}': "0+1x40"},
    "MetergateToolOverruns": {"tool_overruns_total": "0+1x40"},
    "MetergateDebitsWaiting": {"debits_waiting": "10001x40"},
    "MetergateDebitsHindered": {"debits_hindered": "1x40"},
    "MetergateAccountsLocked": {"accounts_locked": "1x40"},
    "MetergateDebitsSetAside": {"debits_set_aside": "1x40"},
    "MetergateDrift": {"reconcile_drifts": "1x40"},
    "MetergateStoreClocksDiffer": {"store_clock_difference_seconds": "6x40"},
    "MetergateReplicaLate": {"replica_lag_seconds": "31x40"},
    "MetergateRequestLogIncomplete": {"request_log_dropped": "0+1x40"},
    "MetergateTracesDropped": {"traces_dropped": "0+1x40"},
    "MetergateBodyLogsDropped": {"body_logs_dropped": "0+1x40"},
    "MetergatePricesUnreadable": {"prices_unreadable": "1x40"},
    "MetergateUsageMonthsKept": {"usage_months_kept": "1x40"},
    "MetergateMailsLate": {"mail_lag_seconds": "301x40"},
    "MetergateExportLate": {'export_parked{export="lago"}': "1x40"},
    "MetergatePaymentsLate": {"payment_events_parked": "1x40"},
    "MetergatePaymentsDiffer": {"payment_differences": "1x40"},
    "MetergatePaymentsParked": {"payments_parked": "1x40"},
    "MetergatePaymentsUndecided": {"payments_undecided": "1x40"},
    "MetergateCollectionLate": {"collect_lag_seconds": "901x40"},
    "MetergateWorkersMissing": {"workers": "4x35 3x5"},
    "MetergateLoopFailed": {'loop_failures_total{loop="mail"}': "0+1x40"},
}


def test_each_alert_fires_on_what_it_is_about_and_no_other_does(tmp_path):
    tests = [promtool_test(WELL, [])]
    names = [name for name in ILL if name != PATIENT]
    for first in range(TOGETHER):
        ill = names[first::TOGETHER]
        tests.append(promtool_test({**WELL, **{each: ILL[name][each] for name in ill for each in ILL[name]}}, ill))
    patient = {each: f"{values} {values.partition('x')[0]}x400" for each, values in ILL[PATIENT].items()}
    tests.append(promtool_test(patient, [PATIENT], minutes=400))
    file = tmp_path / "test.yml"
    asked = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(asked))
    ended = promtool("test", "rules", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr


def promtool_test(series: Series, firing: Sequence[str], minutes: int = MINUTES) -> dict[str, Any]:
    """A test of promtool's, at whose end these alerts fire, with their severity, and no other."""
    labels = [f'{{alertname="{each}", severity="{ALERTS[each]["labels"]["severity"]}"}}' for each in firing]
    return {
        "interval": "1m",
        "input_series": [{"series": labelled(each), "values": values} for each, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": each, "value": 1} for each in labels],
            }
        ],
    }


def labelled(series: str) -> str:
    """A metric of one gateway, by its whole name."""
    name, _, labels = series.rstrip("}").partition("{")
    of = 'job="metergate",instance="a:9464"'
    return f"{name if name == 'up' else f'metergate_{name}'}{{{of}{',' if labels else ''}{labels}}}"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("promtool", "prometheus"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_every_alert_has_its_test_and_says_what_to_do():
    assert ALERTS.keys() == ILL.keys()
    for rule in ALERTS.values():
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_each_runbook_is_a_place_that_names_its_alert_and_no_other_is_named():
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    places = {anchor(part.partition("\n")[0].lstrip("# ")): part for part in re.split(r"^(?=#)", page, flags=re.M)}
    for name, rule in ALERTS.items():
        document, _, place = rule["annotations"]["runbook"].partition("#")
        assert document == "docs/metrics.md"
        assert f"`{name}`" in places[place], name
    assert set(re.findall(r"`(Metergate[A-Z]\w+)`", page)) == ALERTS.keys()


@pytest.mark.parametrize("file", [path.name for path in RULES])
def test_rules_ask_for_metrics_that_are_there(file):
    """Those of the documentation, which are those of the code."""
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    known = set(re.findall(r"`(metergate_\w+)`", " ".join(re.findall(r"^### .+$", page, re.M))))
    asked = set(re.findall(r"(?<![:\w])metergate_\w+", (FOLDER / file).read_text())) - {"metergate_admin_key"}
    assert {name.removesuffix("_bucket") for name in asked} <= known


def test_the_configuration_is_one_that_prometheus_takes():
    checked = promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert checked.returncode == 0, checked.stderr


def test_the_configuration_scrapes_where_the_unit_and_compose_show_metrics():
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (address,) = job["static_configs"][0]["targets"]
    assert f"\nMETRICS_ADDR={address}\n" in (CHECKOUT / "deploy" / "systemd" / "metergate.env").read_text()
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    assert f"{address}:9090" in compose["services"]["gateway"]["ports"]
    assert f'targets: ["{address}"]' in (CHECKOUT / "docs" / "metrics.md").read_text()
