"""What a load needs follows from measured constants."""

import json

import pytest

from benchmarks.__main__ import RESULTS
from benchmarks.capacity import BUSY, LOADS, Constants, Needs, text
from benchmarks.subjects import Unsound

CONSTANTS = Constants(
    gateway_us=120,
    stream_us=5_000,
    redis_us=50,
    postgres_us=40,
    postgres_large_us=100,
    rows=10_000_000,
    row_bytes=1_000,
    pair_bytes=600,
    waiting_bytes=350,
)


def test_needs_are_products_and_no_core_is_busier_than_it_is_to_be():
    needs = Needs.of(10_000, CONSTANTS)
    assert needs.gateway == pytest.approx(1.2)
    assert needs.redis == pytest.approx(0.5)
    assert needs.postgres == pytest.approx((0.4, 1.0))
    assert needs.bytes_per_s == pytest.approx(10e6)
    assert (needs.workers, needs.masters, needs.cores) == (2, 1, 5)
    for per_s in LOADS:
        each = Needs.of(per_s, CONSTANTS)
        busy = each.gateway + each.redis + each.postgres[1]
        assert busy / each.cores <= BUSY
        assert each.gateway / each.workers <= BUSY
        assert each.redis / each.masters <= BUSY


def test_constants_are_those_of_the_last_runs_and_one_that_is_missing_is_said(tmp_path):
    latest = json.loads((RESULTS / "latest.json").read_text())
    found = Constants.of(RESULTS)
    rounds = latest["phases"]["saturation"]["metergate, 6 windows"]
    assert min(each["cpu_us"] for each in rounds) <= found.gateway_us <= max(each["cpu_us"] for each in rounds)
    told = text(RESULTS)
    assert f"{found.gateway_us:,.0f} us" in told
    assert told.splitlines()[-1].startswith("| 100,000 ")
    (tmp_path / "growth.json").write_text((RESULTS / "growth.json").read_text())
    del latest["phases"]["streams"]
    (tmp_path / "latest.json").write_text(json.dumps(latest))
    with pytest.raises(Unsound, match="streams"):
        text(tmp_path)
