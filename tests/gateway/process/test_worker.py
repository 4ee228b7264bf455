"""Reasons for which a worker does not serve, and its messages."""

import shutil
import sys
from pathlib import Path

from gateway import app

SHIPPED = Path(__file__).parents[3] / "config"


def test_a_worker_does_not_start_on_prices_that_can_not_be_read(tmp_path, monkeypatch, capsys):
    for name in ("metergate.yaml", "plans.yaml"):
        shutil.copy(SHIPPED / name, tmp_path)
    row = "- {provider: openai, model: m, effective_from: 2024-01-01, per_million: {input: 1}}\n"
    (tmp_path / "prices.yaml").write_text(row, "utf-8")
    monkeypatch.setenv("METERGATE_CONFIG", str(tmp_path))
    monkeypatch.delenv("METERGATE_SUPERVISOR_PID", raising=False)
    monkeypatch.setattr(sys, "argv", ["worker", "--fd", "0"])
    assert app.main() == 1
    message = capsys.readouterr().err
    assert "prices.yaml:1: " in message
    assert "per_million.input" in message
