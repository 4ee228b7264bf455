"""Two recipes of CONTRIBUTING, followed: a text field on keys, shown in usage events, and a window. The steps below are
made in a copy of the code, in which a gateway then has the field, or the window, and the tests that compare the places
of such things pass."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("billing", "gateway", "tests", "docs", "config", "metergate", "benchmarks", "pyproject.toml")
DEBITS = "billing/ledger/sql/write_{}debits.sql"
# In each file: what the new lines follow, and the lines. No more is needed.
STEPS = {
    "billing/database/migrations/0001_schema.sql": [
        ("    default_tool_calls integer CHECK (default_tool_calls > 0),\n", "    project text,\n"),
        ("    attempts integer NOT NULL DEFAULT 1,\n", "    project text,\n"),
    ],
    "billing/schemas/keys.py": [
        (
            '    tags: Mapping[str, str] = field(default_factory=dict, metadata={"rule": _TAGS})\n',
            '    project: str | None = field(default=None, metadata={"rule": _PROJECT})\n',
        ),
        (
            "    tags: TagsBody | UnsetType | None = UNSET\n",
            "    project: Annotated[str, Meta(max_length=100)] | UnsetType | None = UNSET\n",
        ),
        ("    tags: dict[str, str]\n", "    project: str | None\n"),
        (
            "    show=dict,\n    store=dict,\n)\n",
            '_PROJECT: Final = Rule(Option("--project", "text", "NAME", "What it is for.", "project"))\n',
        ),
    ],
    "billing/principals.py": [("    default_tool_calls: int | None = None\n", "    project: str | None = None\n")],
    "billing/ledger/debits.py": [("    attempts: int = 1\n", "    project: str | None = None\n")],
    **{
        DEBITS.format(kind): [
            ("session, agent, parent_agent, tool, tool_version, attempts", ", project"),
            ("coalesce((d->>41)::integer, 1)", ", d->>42"),
        ]
        for kind in ("", "new_", "unlocked_", "claimed_")
    },
    "gateway/proxy/context.py": [("            self.attempts,\n", "            principal.project,\n")],
    "billing/metering/charges.py": [("            status=200,\n", "            project=principal.project,\n")],
    "billing/schemas/usage.py": [("    tool_version: str | None\n", "    project: str | None\n")],
}
FOLLOWED = """
from tests.gateway.conftest import Gateway


async def test_a_key_s_field_is_in_the_event_of_its_request(gateway: Gateway) -> None:
    customer = await gateway.customer(project="apollo")
    shown = await gateway.admin("GET", f"/keys/{customer.key_id}")
    assert shown["project"] == "apollo"
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    async with customer.post(body=body) as answer:
        assert answer.status == 200, await answer.text()
    await gateway.flush()
    (event,) = await customer.events()
    assert event["project"] == "apollo"
    cleared = await gateway.admin("PATCH", f"/keys/{customer.key_id}", {"project": None})
    assert cleared["project"] is None
"""
COMPARING = ("tests/gateway/test_recipe_followed.py", "tests/billing/schemas/test_keys.py")
# It lists the rules that there are.
LISTING = "tests/billing/schemas/test_keys.py::test_the_default_rules_as_json"


# A quarter is told apart from a month in each place.
WINDOW_STEPS = {
    "billing/quotas.py": [
        ("    total = 5\n", "    quarter = 6\n"),
        ("    Window.total: 3,\n", "    Window.quarter: 3,\n"),
        (
            "            return day.year * 12 + day.month - 1\n",
            "        case Window.quarter:\n            return window_id(Window.month, at_s) // 3\n",
        ),
        (
            "            return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())\n",
            "        case Window.quarter:\n"
            "            day = datetime.fromtimestamp(at_s, UTC)\n"
            "            return int(datetime(day.year, (day.month - 1) // 3 * 3 + 1, 1, tzinfo=UTC).timestamp())\n",
        ),
        (
            "            return int(datetime(day.year + years, month + 1, 1, tzinfo=UTC).timestamp())\n",
            "        case Window.quarter:\n"
            "            last_month_s = window_start_s(window, at_s) + 70 * DAY_S\n"
            "            return window_end_s(Window.month, last_month_s)\n",
        ),
    ],
    "billing/holds/lua/_state.lua": [
        (
            "    (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1, 0}\n",
            "  ids[6] = floor(ids[4] / 3)\n",
        )
    ],
}
WINDOW_FOLLOWED = """
from tests.gateway.conftest import Gateway


async def test_a_quota_of_a_quarter_refuses_the_second_request(gateway: Gateway) -> None:
    customer = await gateway.customer(quotas=[{"window": "quarter", "metric": "requests", "limit": 1}])
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    for expected in (200, 429):
        async with customer.post(body=body) as answer:
            assert answer.status == expected, await answer.text()
            text = await answer.text()
    assert "1 request a quarter is exhausted" in text, text
"""
COMPARING_WINDOWS = (
    "tests/gateway/test_recipe_followed.py",
    "tests/billing/holds/test_loading.py::test_random_seconds",
    "tests/billing/holds/test_loading.py::test_both_sides_of_every_month",
)


def follow(steps: Mapping[str, Sequence[tuple[str, str]]], test: str, tests: Sequence[str], folder: Path) -> None:
    """Make the steps in a copy of the code, and run tests there; the first file is written, with this test."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, folder / name, symlinks=True)  # with what is compiled
        else:
            shutil.copy2(source, folder / name, follow_symlinks=False)
    for name, changes in steps.items():
        file = folder / name
        text = file.read_text("utf-8")
        for after, added in changes:
            assert after in text, f"{name} has no {after!r}"
            text = text.replace(after, after + added)
        file.write_text(text, "utf-8")
    (folder / tests[0]).write_text(test, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_text_field_on_keys_that_is_shown_in_events(tmp_path):
    follow(STEPS, FOLLOWED, (*COMPARING, "--deselect", LISTING), tmp_path)


@pytest.mark.slow
def test_a_window(tmp_path):
    follow(WINDOW_STEPS, WINDOW_FOLLOWED, COMPARING_WINDOWS, tmp_path)


def test_contributing_names_the_files_of_a_window():
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    part = page.partition("## Add a window\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`((?:billing|gateway)/[\w./*]+)`", part)) == WINDOW_STEPS.keys()


def test_contributing_names_the_files_of_these_steps():
    """And no other one: with the page of the API, where both fields stand."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    part = page.partition("## Add a text field to keys, shown in usage events\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`((?:billing|gateway)/[\w./*]+)`", part))
    own = {DEBITS.format("*").replace("*debits", "*") if "write_" in name else name for name in STEPS}
    assert named == own
