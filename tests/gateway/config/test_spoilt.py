"""However a file is spoilt, it loads or is refused with problems that have a place: nothing else is ever raised."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.settings import ConfigError, Problem, load_settings
from gateway.config.source import SHIPPED_FOLDER

FILES = ("metergate.yaml", "prices.yaml", "plans.yaml")
SHIPPED = {name: (SHIPPED_FOLDER / name).read_text("utf-8") for name in FILES}
SHIPPED["prices.yaml"] = SHIPPED["prices.yaml"][:8000].rpartition("\n- {")[0]  # its rows are all of one kind
MARKS = ("", "\n", "\t", "\0", "é", "\ud800", ": ", "? ", "- ", "{", "}", "[", "]", '"', "&a ", "*a", "<<: ", "!!int a")
WORDS = ("null", "~", "true", "0.5", "-1", "9" * 30, "1:30", ".nan", "2024-01-01", "!!binary ")
REFERENCES = ("${", "${X}", "${X:-}", "${X:-5}")
BITS = st.sampled_from((*MARKS, *WORDS, *REFERENCES))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FILES), st.floats(0, 1), st.integers(0, 12), st.lists(BITS, max_size=2))
def test_a_spoilt_file(folder, name, where, cut, bits):
    text = SHIPPED[name]
    at = int(where * len(text))
    for other, shipped in SHIPPED.items():
        (folder / other).write_text(shipped, "utf-8")
    (folder / name).write_bytes((text[:at] + "".join(bits) + text[at + cut :]).encode("utf-8", "surrogatepass"))
    problems = refusal(folder)
    assert all(problem.where.startswith(str(folder)) and problem.message for problem in problems)


def refusal(folder: Path) -> tuple[Problem, ...]:
    try:
        load_settings({"METERGATE_CONFIG": str(folder)})
    except ConfigError as error:
        return error.problems
    return ()
