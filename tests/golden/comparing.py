"""Compare a text with its golden file, or write the file."""

import os
from difflib import unified_diff
from itertools import islice
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "files"
WRITE = "METERGATE_WRITE_GOLDEN"
SHOWN_LINES = 60


def compare(name: str, text: str) -> None:
    """Fail with the first lines that differ from a golden file."""
    file = FILES / name
    if os.environ.get(WRITE) == "1":
        file.write_text(text, "utf-8", newline="")
        return
    wanted = file.read_bytes().decode()
    if text != wanted:
        lines = unified_diff(
            wanted.split("\n"), text.split("\n"), f"tests/golden/files/{name}", "now", n=1, lineterm=""
        )
        shown = "\n".join(line[:400] for line in islice(lines, SHOWN_LINES))
        pytest.fail(f"{shown}\n\nIf this is meant: `python -m tests.golden` writes {name} anew.", pytrace=False)
