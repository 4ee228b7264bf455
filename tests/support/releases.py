"""Releases of Metergate as they are installed: each a wheel of a commit in an environment of its own."""

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from tests.support.commands import CHECKOUT

BUILD_S = 300
# A tag or a commit that stands for the release before this one.
PREVIOUS_VARIABLE = "METERGATE_PREVIOUS_RELEASE"
TAGS = "v[0-9]*"


def previous_release() -> str | None:
    """The release before this commit: its last tag, or what the variable names; None before the first one."""
    if given := os.environ.get(PREVIOUS_VARIABLE):
        return given
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", TAGS, "HEAD^"]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def sources_of(revision: str, into: Path) -> Path:
    """What a commit has."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", revision], cwd=CHECKOUT, capture_output=True, timeout=BUILD_S, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into


def sources_of_checkout(into: Path) -> Path:
    """What is here, committed or not."""
    ignored = shutil.ignore_patterns(".?*", "__pycache__", "build", "dist", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(CHECKOUT, into, symlinks=True, ignore=ignored)
    shutil.copy(CHECKOUT / ".env.example", into)
    return into


def install(sources: Path, release: Path) -> Path:
    """Build the wheel of these sources and install it in a new environment, which sees what it depends on among what
    the tests have: no registry is asked. The environment's Python."""
    wheels = sources.parent / f"{release.name}.wheels"
    _run("-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", str(wheels), str(sources))
    (wheel,) = wheels.glob("*.whl")
    _run("-m", "venv", "--without-pip", str(release))
    python = release / "bin" / "python"
    quiet = ("--disable-pip-version-check", "-q", "--no-deps", "--no-index")
    _run("-m", "pip", "--python", str(python), "install", *quiet, str(wheel))
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(release)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
