"""Exemplars: traces of requests at the buckets of histograms, in OpenMetrics, and as Prometheus stores them."""

import json
from dataclasses import dataclass, replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from gateway.config.environment import TraceSettings
from gateway.metrics.registry import Metrics
from tests.gateway.conftest import ADMIN_KEY, chat
from tests.support.answering import until
from tests.support.prometheus import scraping

# As Prometheus asks.
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@dataclass
class Traced:
    trace_id: str


def exemplars(text):
    """The trace and the value of each bucket that has one, by its metric, labels and bound."""
    return {
        (sample.name, *sorted(sample.labels.items())): (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_a_bucket_has_the_last_request_that_was_traced():
    metrics = Metrics()
    for seconds, trace in ((0.3, Traced("a" * 32)), (0.4, Traced("b" * 32)), (0.35, None), (700.0, Traced("c" * 32))):
        metrics.upstream_latency("openai", seconds, trace)
    metrics.hold_latency(0.0021, Traced("d" * 32))
    metrics.time_to_first_byte("openai", 0.05, Traced("e" * 32))
    body, content_type = metrics.render(ACCEPT)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    head, of, first = (
        "metergate_upstream_latency_seconds_bucket",
        ("provider", "openai"),
        "metergate_time_to_first_byte",
    )
    assert exemplars(body.decode()) == {
        (head, ("le", "0.5"), of): ("b" * 32, 0.4),
        (head, ("le", "+Inf"), of): ("c" * 32, 700.0),
        ("metergate_hold_latency_seconds_bucket", ("le", "0.0025")): ("d" * 32, 0.0021),
        (f"{first}_seconds_bucket", ("le", "0.05"), of): ("e" * 32, 0.05),
    }


def test_both_formats_have_the_same_samples():
    metrics = Metrics()
    metrics.request("/v1/chat/completions", "openai", 200, True)
    metrics.hold_latency(0.0021, Traced("d" * 32))
    text, text_type = metrics.render("text/plain;version=0.0.4")
    assert text_type.startswith("text/plain")
    assert b"trace_id" not in text
    assert metrics.render()[0] == text

    def samples(families):
        return {(each.name, *sorted(each.labels.items())): each.value for found in families for each in found.samples}

    assert samples(openmetrics(metrics.render(ACCEPT)[0].decode())) == samples(plain(text.decode()))


def test_the_newest_of_all_workers_is_shown(tmp_path, monkeypatch):
    now_s = [1_800_000_000.0]
    monkeypatch.setattr("gateway.metrics.registry.time.time", lambda: now_s[0])
    one, two = Metrics(tmp_path), Metrics(tmp_path)
    for metrics, trace in ((two, "a"), (one, "b")):
        metrics.hold_latency(0.002, Traced(trace * 32))
        now_s[0] += 1
        metrics.flush()
    for metrics in (one, two):
        assert list(exemplars(metrics.render(ACCEPT)[0].decode()).values()) == [("b" * 32, 0.002)]
    one.close()  # and of one that has ended
    assert list(exemplars(two.render(ACCEPT)[0].decode()).values()) == [("b" * 32, 0.002)]
    two.close()


@pytest.mark.slow
async def test_prometheus_stores_the_traces_of_slow_requests(make_gateway, tmp_path):
    settings = TraceSettings(endpoint="http://127.0.0.1:9/v1/traces", service="ours", ratio=1.0)
    gateway = await make_gateway(change=lambda given: replace(given, traces=settings))
    customer = await gateway.customer()
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    async with customer.post(body=chat(stream=True), headers=headers) as got:
        assert got.status == 200
        await got.read()
    async with gateway.session.get(
        f"{gateway.url}/metrics", headers={"X-Admin-Key": ADMIN_KEY, "Accept": ACCEPT}
    ) as got:
        assert got.content_type == "application/openmetrics-text"
        names = {name[0] for name, found in exemplars(await got.text()).items() if found[0] == trace_id}
    histograms = ("hold_latency", "settle_latency", "upstream_latency", "time_to_first_byte")
    assert names == {f"metergate_{each}_seconds_bucket" for each in histograms}
    address = gateway.url.removeprefix("http://")
    async with scraping([address], ADMIN_KEY, tmp_path, "--enable-feature=exemplar-storage") as prometheus:

        async def stored():
            return await prometheus.exemplars("metergate_upstream_latency_seconds_bucket")

        await until(stored)
        (series,) = await stored()
        assert series["exemplars"][0]["labels"] == {"trace_id": trace_id}, json.dumps(series)
