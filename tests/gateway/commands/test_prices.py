"""`metergate operator price`, on files alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from billing.cli import REFUSED
from gateway.commands.root import make_app

ROW = '- {provider: p, model: m, effective_from: 2024-01-01, per_million: {input: "%s", output: "2"}}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prices.yaml").write_text(ROW % "1", "utf-8")
    monkeypatch.setenv("METERGATE_CONFIG", str(tmp_path))
    return tmp_path


def price(*words: str) -> Result:
    return CliRunner().invoke(make_app(), ["operator", "price", *words])


def test_a_usage_is_priced_line_by_line(folder: Path) -> None:
    said = price("try", "p/m", "input_tokens=1000000", "output_tokens=500000")
    assert said.exit_code == 0
    assert "2.00 USD by p/m from 2024-01-01" in said.output


@pytest.mark.parametrize(
    ("model", "count", "said"),
    [
        ("m", "input_tokens=1", "name it as PROVIDER/MODEL"),
        ("p/none", "input_tokens=1", "No row prices p/none"),
        ("p/m", "tokens=1", "'tokens=1' is no count: known are input_tokens, output_tokens"),
        ("p/m", "input_tokens=x", "'input_tokens=x' is no count: give a whole number, such as input_tokens=1000"),
        ("p/m", "input_tokens=-5", "'input_tokens=-5' is no count"),
        ("p/m", f"input_tokens={10**18}", "These counts can't be priced"),
    ],
)
def test_what_cannot_be_tried_is_told(folder: Path, model: str, count: str, said: str) -> None:
    tried = price("try", model, count)
    assert tried.exit_code == REFUSED
    assert said in tried.output


def test_a_file_is_checked_compared_and_put_in_force(folder: Path, tmp_path: Path) -> None:
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
