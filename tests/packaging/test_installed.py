"""Metergate as it is installed from a wheel, in an environment of its own and an empty folder: no checkout is near."""

import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from functools import partial
from pathlib import Path

import pytest

from gateway.config.settings import environment_example
from gateway.config.source import FILES, SHIPPED_FOLDER
from tests.support.commands import CHECKOUT, WAIT_S, Shell, do_curl, fetch, with_host

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the user that Postgres runs as can pass through."""
    made = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def sources(folder: Path) -> Path:
    """A copy of the checkout, because a build writes into its folder."""
    ignored = shutil.ignore_patterns(".?*", "__pycache__", "build", "dist", "*.egg-info", "tests", "benchmarks")
    copy = folder / "sources"
    shutil.copytree(CHECKOUT, copy, symlinks=True, ignore=ignored)
    shutil.copy(CHECKOUT / ".env.example", copy)
    return copy


def build(sources: Path, into: Path, *options: str) -> list[Path]:
    how = ("--no-isolation", "--skip-dependency-check", *options)
    command = [sys.executable, "-m", "build", *how, "--outdir", str(into), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(into.iterdir())


@pytest.fixture(scope="module")
def built(folder: Path, sources: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    sdist, wheel = sorted(build(sources, folder / "dist"), key=lambda path: path.suffix != ".gz")
    return sdist, wheel


@pytest.fixture(scope="module")
def shell(folder: Path, built: tuple[Path, Path]) -> Shell:
    """Runs the installed command in an empty folder. Its environment has the wheel, and sees what it depends on among
    what the tests have: no registry is asked."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=WAIT_S)
    python = venv / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--disable-pip-version-check", str(built[1])], check=True, timeout=WAIT_S)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = folder / "empty"
    empty.mkdir()
    empty.chmod(0o711)
    return Shell(empty, {"PYTHONPATH": ""}, (str(venv / "bin" / "metergate"),))


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as opened:
        return {each.filename: each.CRC for each in opened.infolist()}


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(folder, sources, built):
    (direct,) = build(sources, folder / "direct", "--wheel")
    assert contents(direct) == contents(built[1])


def test_the_wheel_has_every_file_of_the_packages(built):
    kept = set(contents(built[1]))
    for package in ("gateway", "billing", "metergate"):
        there = [path for path in (CHECKOUT / package).rglob("*") if path.is_file()]
        assert {str(path.relative_to(CHECKOUT)) for path in there if "__pycache__" not in path.parts} <= kept
    information = built[1].name.split("-py")[0] + ".dist-info"
    assert {Path(name).parts[0] for name in kept} == {"gateway", "billing", "metergate", information}


def test_what_the_distribution_says_of_itself(built):
    with zipfile.ZipFile(built[1]) as opened:
        folder = next(name for name in opened.namelist() if name.endswith("METADATA")).rpartition("/")[0]
        metadata = Parser().parsestr(opened.read(f"{folder}/METADATA").decode())
        assert opened.read(f"{folder}/licenses/LICENSE") == (CHECKOUT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    versions = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if ":: 3." in line}
    assert versions == {"3.11", "3.12", "3.13", "3.14"}
    assert f"## [{metadata['Version']}]" in (CHECKOUT / "CHANGELOG.md").read_text()
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", ".env.example", "docs/api.md"} <= names
    assert not any(name.startswith("tests/") for name in names)


def test_the_installed_library_is_imported_by_its_public_name(shell):
    python = str(Path(shell.program[0]).parent / "python")
    code = "from metergate import Client; print(Client.__name__, Client.account.path)"
    run = partial(subprocess.run, cwd=shell.folder, capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert run([python, "-c", code]).stdout.split() == ["Client", "/api/admin/accounts/{account_id}"]
    assert run([python, "-m", "metergate", "--version"]).stdout == shell.run("--version").stdout


def test_up_serves_in_an_empty_folder(shell):
    with shell.running("up") as running:
        url = running.until("Metergate serves on").rpartition(" ")[2]
        answer = do_curl(running.until("curl"))
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"]
        running.until("Ctrl-C")
        checks = shell.start("doctor", "--json").json["checks"]
        assert {check["status"] for check in checks} == {"ok"}
        message = next(check["message"] for check in checks if check["name"] == "configuration")
        assert "as shipped" in message
        assert str(CHECKOUT) not in message
        assert fetch(f"{url}/readyz").status == 200
        assert running.end() == 0
    assert not (shell.folder / "config").exists()


def test_init_writes_what_is_then_in_force(shell):
    assert shell.start("init", "mine").code == 0
    mine = Shell(shell.folder / "mine", shell.env, shell.program)
    assert {path.name for path in (mine.folder / "config").iterdir()} == set(FILES)
    for name in FILES:
        assert (mine.folder / "config" / name).read_bytes() == (SHIPPED_FOLDER / name).read_bytes()
    assert (mine.folder / ".env").read_text() == environment_example()
    assert stat.S_IMODE((mine.folder / ".env").stat().st_mode) == 0o600
    (mine.folder / "config" / "prices.yaml").unlink()
    refused = mine.start("doctor", "--json")
    assert refused.code == 1
    assert "config/prices.yaml: no such file" in refused.stdout


def test_migrate_and_serve_on_given_stores(shell, empty_database_url, redis_url):
    stores = {"DATABASE_URL": with_host(empty_database_url), "REDIS_URL": redis_url}
    assert shell.start("migrate", "--json", env=stores).json["applied"]
    with shell.running("serve", env={**stores, "ADMIN_API_KEY": "k" * 32}) as running:
        url = running.until("Metergate serves on").rpartition(" ")[2]
        running.until("Ctrl-C")
        assert fetch(f"{url}/readyz").status == 200
        assert running.end() == 0


def test_the_version_is_the_installed_one(shell, built):
    assert shell.start("--version").stdout.split() == ["metergate", built[1].name.split("-")[1]]
