"""What a release has: the same bytes from the same sources, a bill of materials, digests, a workflow that is judged."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import CHECKOUT
from tests.support.programs import judge
from tools.build_release import LOCK, SUMS, build, write_bill, write_sums

TIME_S = 1_764_000_000
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}")


def copied(folder: Path, mode: int) -> Path:
    """A copy of the checkout, as somebody else has it: files of another mode, and of another time."""
    ignored = shutil.ignore_patterns(".?*", "__pycache__", "build", "dist", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(CHECKOUT, folder, symlinks=True, ignore=ignored, copy_function=shutil.copyfile)
    shutil.copy(CHECKOUT / ".env.example", folder)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
    return folder


@pytest.mark.slow
@pytest.mark.nightly
def test_the_same_sources_give_the_same_bytes_wherever_they_are_built(tmp_path):
    built = []
    for number, mode in enumerate((0o644, 0o600)):
        into = tmp_path / f"dist{number}"
        into.mkdir()
        build(copied(tmp_path / f"elsewhere{number}" / "sources", mode), into, TIME_S)
        built.append({path.name: path.read_bytes() for path in into.iterdir()})
    assert sorted(path.rpartition(".")[2] for path in built[0]) == ["gz", "whl"]
    assert built[0] == built[1]


def test_the_bill_names_what_is_locked_and_digests_are_checked(tmp_path):
    program = judge("cyclonedx-py")
    (tmp_path / "metergate-0.1.0-py3-none-any.whl").write_bytes(b"")
    write_bill(CHECKOUT, program, tmp_path)
    bill = json.loads((tmp_path / "metergate-0.1.0.cdx.json").read_text())
    locked = dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)", (CHECKOUT / LOCK).read_text(), re.MULTILINE))
    assert len(locked) > 30
    assert {each["name"]: each["version"] for each in bill["components"]} == locked
    assert bill["metadata"]["component"]["name"] == "metergate"
    assert all(each["hashes"] for part in bill["components"] for each in part["externalReferences"])
    write_sums(tmp_path)
    checked = subprocess.run(["sha256sum", "--check", SUMS], cwd=tmp_path, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_workflows_are_what_github_takes_and_safe():
    """By its schema, and by zizmor: no template that a branch's name could fill, no right that is not needed."""
    files = [str(path) for path in WORKFLOWS]
    assert files
    schema = [judge("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *files]
    judged = subprocess.run(schema, capture_output=True, text=True, timeout=300, check=False)
    assert judged.returncode == 0, judged.stdout
    audit = [judge("zizmor"), "--offline", "--no-progress", "--persona=pedantic", *files]
    audited = subprocess.run(audit, capture_output=True, text=True, timeout=300, check=False)
    assert audited.returncode == 0, audited.stdout + audited.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_commands_are_those_of_the_makefile(path):
    for name, step in steps(yaml.safe_load(path.read_text())):
        if "uses" in step:
            assert PINNED.fullmatch(step["uses"]), f"{name}: {step['uses']}"
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert f"\n{target}:" in (CHECKOUT / "Makefile").read_text()
        for script in re.findall(r"(?:^|\s)(\.ci/\S+)", step.get("run", "")):
            assert (CHECKOUT / script).is_file()


# What answers instead of GitHub, as its reference says: of a tag that is an object, whether its signature is good.
GH = """#!/bin/sh
case "$2" in
  repos/o/r/git/ref/tags/v1.2.3) echo 0123abc ;;
  repos/o/r/git/tags/0123abc) echo "$VERIFIED"; [ "$VERIFIED" != "" ] ;;
  *) exit 3 ;;
esac
"""


@pytest.mark.parametrize(("verified", "goes_on"), [("true", True), ("false", False), ("", False)])
def test_a_tag_that_is_not_signed_is_no_release(verified, goes_on, tmp_path):
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yml").read_text())
    (step,) = workflow["jobs"]["tag"]["steps"]
    assert all(job == "tag" or each.get("needs") for job, each in workflow["jobs"].items())
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "o/r", "GITHUB_REF_NAME": "v1.2.3"}
    command = ["bash", "-e", "-c", step["run"]]
    ran = subprocess.run(command, env={**environ, "VERIFIED": verified}, capture_output=True, check=False, timeout=60)
    assert (ran.returncode == 0) is goes_on


def test_a_release_is_verified_by_what_its_guide_names(tmp_path):
    """A tag, by git's own signature of an SSH key; the files, by their digests."""
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "gpg.format=ssh")
    run = lambda *command: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: E731
    for made in ("one", "other"):
        assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made).returncode == 0
    key = (tmp_path / "one.pub").read_text()
    (tmp_path / "signers").write_text(f"a@example.com {key}")
    assert run(*git, "init", "-q").returncode == 0
    assert run(*git, "commit", "-q", "--allow-empty", "-m", "one").returncode == 0
    for name, made in (("v1.2.3", "one"), ("v1.2.4", "other")):
        tagged = run(*git, "-c", f"user.signingkey={tmp_path}/{made}", "tag", "--sign", name, "-m", name)
        assert tagged.returncode == 0, tagged.stderr
    judged = [run(*git, "-c", "gpg.ssh.allowedSignersFile=signers", "verify-tag", tag) for tag in ("v1.2.3", "v1.2.4")]
    assert [each.returncode == 0 for each in judged] == [True, False], judged


def steps(workflow: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step
