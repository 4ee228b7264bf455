"""The report's table: figures, and whether each bar is met."""

import json

from benchmarks import report
from benchmarks.modes import MODES
from benchmarks.seed import Written
from benchmarks.subjects import BARE, DIRECT, LEDGER, METERGATE, SATURATION, Results
from benchmarks.tables import rounded, table

COSTS = {"redis_us": 60.0, "postgres_us": 30.0, "per_s": 1000.0, "utilisation": 0.99}
PACED = {"p50_ms": 0.5, "p99_ms": 1.0}


def results() -> Results:
    found = Results(MODES["quick"])
    found.phases = {
        SATURATION: {BARE: [{"cpu_us": 100.0, **COSTS}], METERGATE: [{"cpu_us": 70.0, **COSTS}]},
        "100/s": {
            DIRECT: [{"cpu_us": 0.0, **PACED}],
            BARE: [{"cpu_us": 400.0, "p50_ms": 1.0, "p99_ms": 2.0}],
            METERGATE: [{"cpu_us": 200.0, "p50_ms": 1.25, "p99_ms": 3.0}],
        },
        LEDGER: {LEDGER: [{"rows_per_s": 21_000.0, "client_us": 10.0, "postgres_us": 40.0}]},
    }
    found.skipped["nginx"] = "not here"
    found.answers, found.ledger_rows = 10, 5
    found.ledgers.append(Written(7, 7, 7, 0, 0))
    return found


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_figure_stands_beside_its_bar_and_aim():
    text = report.markdown(results(), {"cores": 2})
    assert row(text, "CPU a JSON request at saturation")[1:] == [
        "of bare",
        "0.70",
        "0.70-0.70",
        "≤ 0.55",
        "MISSED",
        "≤ 0.45",
        "no",
    ]
    assert row(text, "CPU a JSON request at 100/s")[4:] == ["≤ 1.25", "holds", "≤ 1", "reached"]
    assert row(text, "ledger, one connection")[2:] == [
        "21,000",
        "21,000-21,000",
        "≥ 20,000",
        "holds",
        "≥ 40,000",
        "no",
    ]


def test_latency_is_shown_above_the_direct_way():
    section = report.markdown(results(), {}).partition("## 100 requests/s")[2]
    assert row(section, METERGATE)[-2:] == ["0.75", "2.00"]
    assert row(section, DIRECT)[1:4] == ["", "", ""]


def test_what_was_left_out_and_what_was_counted_is_said():
    text = report.markdown(results(), {"cores": 2, "packages": {"aiohttp": "3"}})
    assert "- nginx was left out: not here" in text
    assert "10 answers, no error" in text
    assert "the ledger has 7 debits" in text
    assert "wrote 5 more" in text
    assert "- packages: aiohttp 3" in text


def test_a_busy_machine_is_named():
    found = results()
    assert "The machine was busy" not in report.markdown(found, {})
    found.phases[SATURATION][BARE][0]["utilisation"] = 0.5
    assert "bare got 50% of its core" in report.markdown(found, {})


def test_the_file_has_every_sample_and_every_judgement(tmp_path):
    report.write(results(), {"cores": 2}, tmp_path)
    latest = json.loads((tmp_path / "latest.json").read_text())
    assert latest["phases"][SATURATION][METERGATE] == [{"cpu_us": 70.0, **COSTS}]
    assert latest["ratios_to_bare"]["100/s"] == {METERGATE: 0.5}
    judged = {each["figure"]: (each["median"], each["bar_holds"]) for each in latest["figures"]}
    assert judged["CPU a JSON request at saturation"] == (0.7, False)
    assert (tmp_path / "latest.md").read_text() == report.markdown(results(), {"cores": 2})


def test_a_table_is_as_wide_as_its_widest_cells():
    assert table(("a", "b"), [("long", "1")]) == ["| a    | b |", "|------|--:|", "| long | 1 |"]


def test_rounding_reaches_into_everything():
    assert rounded({"a": [1.23456, (2, "x")]}) == {"a": [1.2346, [2, "x"]]}
