"""The `betas` of metergate.yaml."""

from gateway.config.settings import load_settings
from gateway.config.source import SHIPPED_FOLDER
from gateway.dialects.declared import DEFAULT_BETAS
from tests.gateway.config.support import MAIN, load, problems
from tests.support.tables import Tables

TABLES = Tables(__file__)

OWN = """\
betas:
  Anthropic-Beta:
    context-1m: 2000000
    Time-Travel: refuse
    context-2m: window
    managed-agents: pass
  openai-beta: {"assistants=v2": refuse}
  x-goog-features:
"""


def test_effects_by_header_and_name(tmp_path):
    assert load(tmp_path, main=MAIN + OWN).betas == {
        "anthropic-beta": {
            "context-1m": 2_000_000,
            "time-travel": "refuse",
            "context-2m": "window",
            "managed-agents": "pass",
        },
        "openai-beta": {"assistants=v2": "refuse"},
        "x-goog-features": {},
    }
    assert load(tmp_path).betas == {}


def test_the_shipped_file_shows_what_holds_without_it():
    assert load_settings({"METERGATE_CONFIG": str(SHIPPED_FOLDER)}, mode="command").betas == DEFAULT_BETAS


@TABLES.each("what_is_wrong_is_told_with_its_line")
def test_what_is_wrong_is_told_with_its_line(tmp_path, line, told):
    (problem,) = problems(tmp_path, main=f"{MAIN}betas:\n  {line}\n")
    assert problem.startswith(f"metergate.yaml:{MAIN.count(chr(10)) + 2}: betas.")
    assert told in problem
