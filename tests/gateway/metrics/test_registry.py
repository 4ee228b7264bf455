"""What is counted is what a scrape shows: in one process, and as the sum over workers that come, go and are killed."""

import fcntl
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from billing.ledger.debits import Debit
from gateway.metrics.registry import LABEL_SETS_LIMIT, METRICS_DIR_VARIABLE, OTHER, STEP_BOUNDS, Metrics

WAIT_S = 60.0

WORKER = f"""
import os, sys
from pathlib import Path
from typing import Any
from gateway.metrics.registry import Metrics
metrics = Metrics(Path(os.environ[{METRICS_DIR_VARIABLE!r}]))
metrics.gauge("holds_live", "Holds.", lambda: 3)
metrics.gauge("debits_waiting", "Debits.", lambda: os.getpid(), "max")
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "count":
        for _ in range(int(number)):
            metrics.request("/v1/chat/completions", "openai", 200, True)
            metrics.upstream_latency("openai", 0.75)
        metrics.flush()
    else:
        print(metrics.render()[0].decode(), end="")
    print("# done", flush=True)
"""

REQUEST = 'metergate_requests_total{endpoint="/v1/chat/completions",provider="openai",status="200",stream="true"}'
Scrape = dict[str, float]


def parse(text: str) -> Scrape:
    """Every sample by its name and labels, as they are written."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


def scrape(metrics: Metrics) -> Scrape:
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=")
    return parse(text.decode())


def exact(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """One family's values before they are rendered."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.collect()
        if family.name == name
        for sample in family.samples
    }


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, command: str) -> str:
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line == "# done\n":
                return "".join(lines)
            lines.append(line)
        raise AssertionError("the worker has ended")

    def scrape(self) -> Scrape:
        return parse(self.ask("render"))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)


@contextmanager
def worker(folder: Path) -> Iterator[Worker]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), METRICS_DIR_VARIABLE: str(folder)},
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.communicate()


def charged(**fields: Any) -> Debit:
    fields = {"provider": "openai", "model": "gpt", "status": 200, **fields}
    return Debit(request_id="1", admitted_at_ms=0, outcome="settled", account_id="acct_1", **fields)


def test_every_metric_shows_what_was_counted():
    metrics = Metrics()
    metrics.request("/v1/chat/completions", "openai", 200, True)
    metrics.request("/v1/chat/completions", "openai", 200, True)
    metrics.request("/v1/embeddings", "local", 502, False)
    metrics.refusal("quota_exceeded")
    counts = {"input_tokens": 100, "cached_input_tokens": 20, "output_tokens": 30, "reasoning_tokens": 10}
    metrics.charged(charged(cost_nano=1_000, charged_nano=1_200, **counts), "settled", 0.004, "pro")
    metrics.charged(
        charged(input_tokens=1, output_tokens=2, cost_nano=500, charged_nano=600, estimated=True, status=499),
        "direct_write",
        7.0,
        "pro",
    )
    metrics.failed("gpt", "pro")
    metrics.hold_latency(0.002)
    metrics.upstream_latency("openai", 1.5)
    metrics.time_to_first_byte("openai", 0.3)
    metrics.hold_exceeded()
    metrics.settled(False, "voided")
    expected = {
        REQUEST: 2,
        'metergate_requests_total{endpoint="/v1/embeddings",provider="local",status="502",stream="false"}': 1,
        'metergate_refusals_total{code="quota_exceeded"}': 1,
        'metergate_tokens_total{class="input",provider="openai"}': 101,
        'metergate_tokens_total{class="cached_input",provider="openai"}': 20,
        'metergate_tokens_total{class="output",provider="openai"}': 32,
        'metergate_tokens_total{class="reasoning",provider="openai"}': 10,
        'metergate_cost_nano_usd_total{provider="openai"}': 1_500,
        'metergate_charged_nano_usd_total{provider="openai"}': 1_800,
        'metergate_model_requests_total{model="gpt",outcome="answered",plan="pro"}': 1,
        'metergate_model_requests_total{model="gpt",outcome="cut",plan="pro"}': 1,
        'metergate_model_requests_total{model="gpt",outcome="failed",plan="pro"}': 1,
        'metergate_model_charged_nano_usd_total{model="gpt",outcome="answered",plan="pro"}': 1_200,
        'metergate_model_charged_nano_usd_total{model="gpt",outcome="cut",plan="pro"}': 600,
        "metergate_hold_exceeded_total": 1,
        'metergate_settlements_total{estimated="false",outcome="settled"}': 1,
        'metergate_settlements_total{estimated="true",outcome="direct_write"}': 1,
        'metergate_settlements_total{estimated="false",outcome="voided"}': 1,
        "metergate_hold_latency_seconds_count": 1,
        "metergate_hold_latency_seconds_sum": 0.002,
        'metergate_hold_latency_seconds_bucket{le="0.001"}': 0,
        'metergate_hold_latency_seconds_bucket{le="0.0025"}': 1,
        'metergate_settle_latency_seconds_bucket{le="0.005"}': 1,
        'metergate_upstream_latency_seconds_bucket{le="1.0",provider="openai"}': 0,
        'metergate_upstream_latency_seconds_bucket{le="2.5",provider="openai"}': 1,
        'metergate_time_to_first_byte_seconds_sum{provider="openai"}': 0.3,
        "metergate_workers": 1,
    }
    shown = scrape(metrics)
    assert {key: shown[key] for key in expected} == expected
    assert all(key.startswith("metergate_") for key in shown)


def test_what_an_alert_waits_for_is_there_before_it_happens():
    shown = scrape(Metrics())
    assert shown["metergate_hold_exceeded_total"] == 0
    assert shown["metergate_hold_latency_seconds_count"] == 0
    for outcome in ("settled", "voided", "direct_write", "lost"):
        for estimated in ("true", "false"):
            assert shown[f'metergate_settlements_total{{estimated="{estimated}",outcome="{outcome}"}}'] == 0


@given(st.lists(st.one_of(st.floats(0, 5), st.sampled_from(STEP_BOUNDS))))
def test_a_bucket_holds_what_is_at_most_its_bound(seconds):
    metrics = Metrics()
    for value in seconds:
        metrics.hold_latency(value)
    shown = scrape(metrics)
    for bound in STEP_BOUNDS:
        assert shown[f'metergate_hold_latency_seconds_bucket{{le="{bound}"}}'] == sum(v <= bound for v in seconds)
    assert shown['metergate_hold_latency_seconds_bucket{le="+Inf"}'] == len(seconds)
    assert shown["metergate_hold_latency_seconds_count"] == len(seconds)
    assert shown["metergate_hold_latency_seconds_sum"] == pytest.approx(sum(seconds))


def test_money_is_added_up_exactly(tmp_path):
    odd = 2**53 + 1  # no float has it
    one, two = Metrics(tmp_path), Metrics(tmp_path)
    one.charged(charged(cost_nano=odd, charged_nano=odd + 2), "settled", 0.0, "pro")
    two.charged(charged(cost_nano=odd, charged_nano=1), "settled", 0.0, "pro")
    two.flush()
    assert exact(one, "metergate_cost_nano_usd") == {("openai",): 2 * odd}
    assert exact(one, "metergate_charged_nano_usd") == {("openai",): odd + 3}
    one.close()
    two.close()


def test_label_sets_are_bounded_and_nothing_goes_uncounted(tmp_path):
    one, two = Metrics(tmp_path), Metrics(tmp_path)
    for number in range(LABEL_SETS_LIMIT + 500):
        one.refusal(f"one-{number}")
        two.refusal(f"two-{number}")
        one.request("/v1/x", "openai", number, False)
        debit = charged(provider=f"provider-{number}", input_tokens=1, output_tokens=2)
        one.charged(debit, "settled", 0.0, "pro")
    refusals = exact(one, "metergate_refusals")
    assert len(refusals) == LABEL_SETS_LIMIT + 1
    assert refusals[OTHER,] == 500
    assert exact(one, "metergate_requests")[OTHER, OTHER, OTHER, OTHER] == 500
    tokens = exact(one, "metergate_tokens")
    assert len(tokens) == LABEL_SETS_LIMIT + 4
    assert tokens["output", OTHER] == 2 * (LABEL_SETS_LIMIT + 500 - LABEL_SETS_LIMIT // 4)
    two.flush()
    both = exact(one, "metergate_refusals")
    assert len(both) == LABEL_SETS_LIMIT + 1
    assert sum(both.values()) == 2 * (LABEL_SETS_LIMIT + 500)
    one.close()
    two.close()


def test_gauges_of_providers_are_one_family():
    metrics = Metrics()
    for number, name in enumerate(("a", "b")):
        metrics.gauge("open", "Open.", lambda number=number: number, "max", provider=name)
    text = metrics.render()[0].decode()
    assert text.count("# TYPE metergate_open gauge") == 1
    assert 'metergate_open{provider="b"} 1.0' in text
    with pytest.raises(ValueError, match="taken"):
        metrics.gauge("open", "", lambda: 1, provider="a")


def test_gauges_are_read_at_each_scrape():
    metrics = Metrics()
    waiting = [5.0]
    metrics.gauge("debits_waiting", "Debits that wait.", lambda: waiting[0])
    assert scrape(metrics)["metergate_debits_waiting"] == 5
    waiting[0] = float("nan")
    assert "metergate_debits_waiting" not in scrape(metrics)


def test_a_process_that_only_serves_pages_is_no_worker(tmp_path):
    worker, pages = Metrics(tmp_path), Metrics(tmp_path, is_worker=False)
    pages.flush()
    assert scrape(worker)["metergate_workers"] == 1
    worker.notes["troubles"] = ["x", "y"]
    worker.flush()
    assert scrape(pages)["metergate_workers"] == 1
    pages.notes["troubles"] = ["y", "z"]
    assert pages.told("troubles") == ["y", "z", "x"]
    assert pages.told("nothing") == []
    worker.close()
    assert pages.told("troubles") == ["y", "z"]  # the dead have none
    shutil.rmtree(tmp_path)
    assert pages.told("troubles") == ["y", "z"]
    pages.close()


def test_a_full_disk_keeps_no_worker_from_starting(tmp_path):
    ended = Metrics(tmp_path)
    ended.refusal("x")
    ended.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file grows any more
    try:
        worker = Metrics(tmp_path)
        worker.refusal("x")
        assert exact(worker, "metergate_refusals") == {("x",): 2}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exact(worker, "metergate_refusals") == {("x",): 2}
    worker.close()


@pytest.mark.parametrize("name", ["", "Holds", "holds-live", "workers", "requests", "hold_latency_seconds"])
def test_a_gauge_needs_a_free_and_proper_name(name):
    with pytest.raises(ValueError, match="no name for a metric"):
        Metrics().gauge(name, "", lambda: 1)


def test_two_processes_show_their_sum_and_a_killed_ones_counts_stay(tmp_path):
    folder = tmp_path / "data" / "metrics"
    with worker(folder) as one, worker(folder) as two:
        one.ask("count 5")
        two.ask("count 7")
        for shown in (one.scrape(), two.scrape()):
            assert shown[REQUEST] == 12
            assert shown['metergate_upstream_latency_seconds_bucket{le="1.0",provider="openai"}'] == 12
            assert shown['metergate_upstream_latency_seconds_sum{provider="openai"}'] == 9.0
            assert shown["metergate_workers"] == 2
            assert shown["metergate_holds_live"] == 6
            assert shown["metergate_debits_waiting"] == max(one.process.pid, two.process.pid)
        one.kill()
        for _ in range(2):  # the first of them folds, the second finds it folded
            shown = two.scrape()
            assert shown[REQUEST] == 12
            assert shown["metergate_workers"] == 1
            assert shown["metergate_holds_live"] == 3
            assert shown["metergate_debits_waiting"] == two.process.pid
        assert not list(folder.glob(f"{one.process.pid}-*"))
        with worker(folder) as three:
            three.ask("count 1")
            assert three.scrape()[REQUEST] == two.scrape()[REQUEST] == 13
            assert three.scrape()["metergate_workers"] == 2


def test_a_new_worker_folds_those_that_died_before_it(tmp_path):
    for _ in range(3):
        with worker(tmp_path) as one:
            one.ask("count 2")
    metrics = Metrics(tmp_path)
    assert len(list(tmp_path.glob("*.snapshot"))) == 0
    assert scrape(metrics)[REQUEST] == 6
    metrics.close()


def test_a_fold_that_was_cut_short_counts_nothing_twice(tmp_path):
    one, two = Metrics(tmp_path), Metrics(tmp_path)
    one.refusal("quota_exceeded")
    one.close()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.snapshot")}
    assert scrape(two)['metergate_refusals_total{code="quota_exceeded"}'] == 1
    assert not any(path.exists() for path in kept)
    for path, content in kept.items():  # as if killed between writing the totals and removing the files
        path.write_bytes(content)
    with (tmp_path / "folding").open("rb") as held:
        fold_elsewhere(held.fileno())
        assert scrape(two)['metergate_refusals_total{code="quota_exceeded"}'] == 1
    assert scrape(two)['metergate_refusals_total{code="quota_exceeded"}'] == 1
    assert not any(path.exists() for path in kept)
    two.close()


def test_a_dead_worker_that_is_not_folded_yet_has_counts_and_no_gauges(tmp_path):
    one, two = Metrics(tmp_path), Metrics(tmp_path)
    one.refusal("quota_exceeded")
    with (tmp_path / "folding").open("rb") as held:
        fold_elsewhere(held.fileno())
        one.close()
        shown = scrape(two)
    assert list(tmp_path.glob("*.snapshot"))
    assert shown['metergate_refusals_total{code="quota_exceeded"}'] == 1
    assert shown["metergate_workers"] == 1
    two.close()


def fold_elsewhere(descriptor: int) -> None:
    """Hold the lock that folding takes, for as long as the descriptor is open."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def test_counters_never_fall_while_workers_come_and_go(tmp_path):
    key = 'metergate_refusals_total{code="billing_required"}'
    stop = threading.Event()

    def watch():
        metrics, seen = Metrics(tmp_path), []
        while not stop.is_set():
            seen.append(scrape(metrics).get(key, 0))
        metrics.close()
        return seen

    with ThreadPoolExecutor() as pool:
        watchers = [pool.submit(watch) for _ in range(2)]
        try:
            for _ in range(60):
                passing = Metrics(tmp_path)
                passing.refusal("billing_required")
                passing.flush()
                passing.refusal("billing_required")
                passing.close()
        finally:
            stop.set()
    for watcher in watchers:
        assert watcher.result() == sorted(watcher.result())
    last = Metrics(tmp_path)
    assert scrape(last)[key] == 120
    last.close()


def test_a_kill_at_any_moment_loses_at_most_what_was_not_flushed(tmp_path):
    metrics = Metrics(tmp_path)
    flushed = 0
    for rounds in (1, 30, 300):
        with worker(tmp_path) as one:
            assert one.process.stdout is not None
            one.process.stdin.write("count 1\n" * 4_000)
            one.process.stdin.flush()
            for _ in range(rounds):
                assert one.process.stdout.readline() == "# done\n"
            one.kill()
            flushed += rounds + one.process.stdout.read().count("# done\n")
        shown = scrape(metrics)[REQUEST]
        assert flushed <= shown <= flushed + 1  # one flush may have been done and not been told
        flushed = int(shown)
    metrics.close()


def test_a_closed_one_counts_on_for_itself(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.refusal("quota_exceeded")
    metrics.close()
    metrics.close()
    metrics.refusal("quota_exceeded")
    metrics.flush()
    assert scrape(metrics)['metergate_refusals_total{code="quota_exceeded"}'] == 2


def test_a_folder_that_is_gone_stops_nothing_but_the_scrape(tmp_path, caplog):
    metrics = Metrics(tmp_path / "metrics")
    shutil.rmtree(tmp_path / "metrics")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metrics.refusal("quota_exceeded")
            metrics.flush()
    assert len(caplog.records) == 1
    with pytest.raises(OSError, match="metrics"):
        metrics.render()
    metrics.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        msgspec.msgpack.encode({"counters": {"unheard_of": {(): 1}}}),
        msgspec.msgpack.encode({"histograms": {"hold_latency_seconds": {(): [1, 2, 3]}}}),
    ],
)
def test_a_snapshot_of_another_version_is_left_out(content, tmp_path, caplog):
    metrics = Metrics(tmp_path)
    metrics.refusal("quota_exceeded")
    (tmp_path / "1-stranger.snapshot").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert scrape(metrics)['metergate_refusals_total{code="quota_exceeded"}'] == 1
    assert "1-stranger.snapshot" in caplog.text
    metrics.close()
