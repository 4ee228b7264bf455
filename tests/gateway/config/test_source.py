"""Files: what can't be read at all, and that every problem has its line."""

from tests.gateway.config.support import MAIN, problems
from tests.support.tables import Tables

TABLES = Tables(__file__)


def test_the_small_configuration_loads(tmp_path):
    assert problems(tmp_path) == []


@TABLES.each("what_is_no_list_of_rows")
def test_what_is_no_list_of_rows(tmp_path, text, problem):
    assert problems(tmp_path, prices=text)[0].startswith(problem)


def test_a_missing_folder_is_three_problems(tmp_path):
    found = problems(tmp_path, {"METERGATE_CONFIG": str(tmp_path / "nowhere")})
    assert [problem.partition(": ")[2] for problem in found] == ["no such file"] * 3


def test_a_file_that_is_not_utf8(tmp_path):
    assert problems(tmp_path) == []
    (tmp_path / "latin").mkdir()
    for name in ("metergate", "prices", "plans"):
        (tmp_path / "latin" / f"{name}.yaml").write_bytes(b"name: \xe4")
    found = problems(tmp_path, {"METERGATE_CONFIG": str(tmp_path / "latin")})
    assert all(problem.endswith("can't be read: not UTF-8") for problem in found)


def test_all_problems_of_all_files_come_at_once(tmp_path):
    found = problems(
        tmp_path,
        {"MAX_BODY_BYTES": "1MB"},
        main=MAIN + "  other: {provider: opnai}\ndefaults: {strict: perhaps}\n",
        prices="\n- {provider: openai}\n",
        plans="free: {}\n",
    )
    assert found == [
        'environment: MAX_BODY_BYTES: expected a whole number from 1024 to 1073741824, got "1MB"',
        'metergate.yaml:7: models.other.provider: expected a provider of this file, got "opnai"; did you mean openai?',
        "prices.yaml:2: model: missing",
        "prices.yaml:2: effective_from: missing",
        "plans.yaml:1: free.name: missing",
        "plans.yaml:1: free.price_usd: missing",
        'metergate.yaml:8: defaults.strict: expected true or false, got "perhaps"',
    ]


def test_lines_are_those_of_the_key(tmp_path):
    main = """providers:
  local:
    kind:
      local
    dely_ms: 1

models:
  demo:
    provider: local
    models:
      - a
"""
    assert problems(tmp_path, main=main) == [
        "metergate.yaml:5: providers.local.dely_ms: unknown key; did you mean delay_ms?",
        "metergate.yaml:10: models.demo.models: unknown key; did you mean model?",
    ]


def test_numbers_and_truths_may_come_from_variables(tmp_path):
    main = MAIN + 'defaults: {strict: "${STRICT:-no}", batch_items: "${ITEMS}"}\n'
    assert problems(tmp_path, {"ITEMS": "8"}, main=main) == []
    assert problems(tmp_path, {"ITEMS": "80", "STRICT": "x"}, main=main) == [
        'metergate.yaml:7: defaults.strict: expected true or false, got "${STRICT:-no}"',
        'metergate.yaml:7: defaults.batch_items: expected a whole number from 1 to 64, got "${ITEMS}"',
    ]
    assert problems(tmp_path, main=main) == [
        "metergate.yaml:7: defaults.batch_items: the variable ITEMS is not set; set it, or write ${ITEMS:-default}"
    ]


def test_a_repeated_key_is_refused_once(tmp_path):
    assert problems(tmp_path, main=f"{MAIN}defaults: {{strict: true}}\ndefaults: {{strict: true}}\n") == [
        "metergate.yaml:8: defaults: given twice"
    ]
    assert problems(tmp_path, main=MAIN + "  demo: {provider: local}\n") == [
        "metergate.yaml:7: models.demo: given twice"
    ]
