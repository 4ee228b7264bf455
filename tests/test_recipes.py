"""A recipe of CONTRIBUTING, followed: a text field on keys, shown in usage events. The steps below are made in a copy
of the code, in which a key then has the field, a request of the key has it in its event, and the tests that compare the
places of such fields pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
COPIED: Final = ("billing", "gateway", "tests", "docs", "config", "metergate", "benchmarks", "pyproject.toml")
DEBITS: Final = "billing/ledger/sql/write_{}debits.sql"
# In each file: what the new lines follow, and the lines. No more is needed.
STEPS: Final[dict[str, list[tuple[str, str]]]] = {
    "billing/database/migrations/0001_schema.sql": [
        ("    default_tool_calls integer CHECK (default_tool_calls > 0),\n", "    project text,\n"),
        ("    tool_version text,\n", "    project text,\n"),
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
    "billing/ledger/debits.py": [("    tool_version: str | None = None\n", "    project: str | None = None\n")],
    **{
        DEBITS.format(kind): [("session, agent, parent_agent, tool, tool_version", ", project"), ("d->>40", ", d->>41")]
        for kind in ("", "new_", "unlocked_", "claimed_")
    },
    "gateway/proxy/context.py": [("            sender.tool_version,\n", "            principal.project,\n")],
    "billing/metering/charges.py": [("            status=200,\n", "            project=principal.project,\n")],
    "billing/schemas/usage.py": [("    tool_version: str | None\n", "    project: str | None\n")],
}
FOLLOWED: Final = """
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
COMPARING: Final = ("tests/gateway/test_recipe_followed.py", "tests/billing/schemas/test_keys.py")
# It lists the rules that there are.
LISTING: Final = "tests/billing/schemas/test_keys.py::test_the_default_rules_as_json"


@pytest.mark.slow
def test_a_text_field_on_keys_that_is_shown_in_events(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tmp_path / name, follow_symlinks=False)
    for name, steps in STEPS.items():
        file = tmp_path / name
        text = file.read_text("utf-8")
        for after, added in steps:
            assert after in text, f"{name} has no {after!r}"
            text = text.replace(after, after + added)
        file.write_text(text, "utf-8")
    (tmp_path / COMPARING[0]).write_text(FOLLOWED, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *COMPARING, "--deselect", LISTING]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_contributing_names_the_files_of_these_steps() -> None:
    """And no other one: with the page of the API, where both fields stand."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    part = page.partition("## Add a text field to keys, shown in usage events\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`((?:billing|gateway)/[\w./*]+)`", part))
    own = {DEBITS.format("*").replace("*debits", "*") if "write_" in name else name for name in STEPS}
    assert named == own
