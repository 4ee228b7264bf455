"""`metergate operator price`, on files alone."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from billing.cli import REFUSED, USAGE
from gateway.commands.root import make_app

ROW = '- {provider: p, model: m, effective_from: 2024-01-01, per_million: {input: "%s", output: "2"}}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prices.yaml").write_text(ROW % "1", "utf-8")
    monkeypatch.setenv("METERGATE_CONFIG", str(tmp_path))
    return tmp_path


def price(*words: str) -> Result:
    return CliRunner().invoke(make_app(), ["operator", "price", *words])


def test_a_usage_is_priced_line_by_line(folder):
    lines = price("try", "p/m", "input_tokens=1000000", "output_tokens=500000")
    assert lines.exit_code == 0
    assert "2.00 USD by p/m from 2024-01-01" in lines.output
    data = json.loads(price("try", "m", "input_tokens=1000000", "--json").stdout)
    line = {"class": "input", "quantity": 1000000, "price_usd_per_million": "1.00", "amount_usd": "1"}
    assert (data["provider"], data["model"], data["lines"]) == ("p", "m", [line])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("p/none", "input_tokens=1"), REFUSED, "metergate operator price list"),
        (("none", "input_tokens=1"), REFUSED, "provider/model"),
        (("shared", "input_tokens=1"), REFUSED, "p/shared, q/shared"),
        (("p/m", "tokens=1"), USAGE, "input_tokens"),
        (("p/m", "input_tokens=x"), USAGE, "input_tokens=1000"),
        (("p/m", "input_tokens=" + "9" * 5000), USAGE, "input_tokens=1000"),
        (("p/m", "input_tokens=1", "cached_input_tokens=2"), USAGE, "add up to more"),
    ],
)
def test_what_can_not_be_priced_says_what_to_write(folder, words, code, message):
    rows = "".join((ROW % "1").replace("p, model: m", f"{provider}, model: shared") for provider in "pq")
    (folder / "prices.yaml").write_text(ROW % "1" + rows, "utf-8")
    result = price("try", *words)
    assert result.exit_code == code
    assert message in result.stderr
    assert "invalid literal" not in result.stderr


def test_rows_are_objects_for_scripts(folder, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(ROW % "3", "utf-8")
    (listed,) = json.loads(price("list", "p/", "--json").stdout)["data"]
    assert (listed["provider"], listed["model"], listed["effective_from"]) == ("p", "m", "2024-01-01")
    assert listed["usd_per_million"] == {"input": "1.00", "output": "2.00"}
    changes = json.loads(price("diff", str(other), "--json").stdout)["data"]
    assert [(each["change"], each["usd_per_million"]["input"]) for each in changes] == [
        ("removed", "1.00"),
        ("added", "3.00"),
    ]
    assert "the same rows" in price("diff", str(folder / "prices.yaml")).stdout
    assert "No row begins with x" in price("list", "x").stdout


def test_a_file_is_checked_compared_and_put_in_force(folder, tmp_path):
    other, broken = tmp_path / "other.yaml", tmp_path / "broken.yaml"
    other.write_text(ROW % "3", "utf-8")
    broken.write_text("- {provider: p}\n", "utf-8")
    assert "1 rows" in price("check", str(other)).output
    assert price("check", str(broken)).exit_code != 0
    assert price("import", str(broken)).exit_code != 0
    assert "input 1.00" in price("list", "p/").output
    assert {"-", "+"} <= {line[:1] for line in price("diff", str(other)).output.splitlines()}
    assert price("import", str(other)).exit_code == 0
    assert "input 3.00" in price("list").output
