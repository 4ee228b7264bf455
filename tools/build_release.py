"""Build what a release has: `make release`, into dist/.

    metergate-VERSION.tar.gz, metergate-VERSION-py3-none-any.whl    the sources, and the wheel that is built from them
    metergate-VERSION.cdx.json    what is installed with it, by the hashed lock (CycloneDX)
    SHA256SUMS    of all of them

The same commit gives the same bytes, whoever builds it, where and when: times are the commit's, owners are nobody's,
and files of an archive have the order of their names.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = "requirements/runtime.lock"
SUMS: Final = "SHA256SUMS"
EPOCH: Final = "SOURCE_DATE_EPOCH"
# Of directories and programs, and of all other files.
MODES: Final = (0o755, 0o644)


def commit_time_s(root: Path) -> int:
    """Return when the commit was made that is built; SOURCE_DATE_EPOCH, where it is set, goes before it."""
    given = os.environ.get(EPOCH)
    command = ["git", "log", "-1", "--format=%ct"]
    return int(given or subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout)


def build(root: Path, into: Path, time_s: int) -> None:
    """Build the sdist, and the wheel from it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        _run_build(root, made, "--sdist", time_s)
        (sdist,) = made.glob("*.tar.gz")
        normalised = normalise(sdist.read_bytes(), time_s)
        (into / sdist.name).write_bytes(normalised)
        with tarfile.open(fileobj=BytesIO(normalised)) as archive:
            archive.extractall(made, filter="data")
        _run_build(made / sdist.name.removesuffix(".tar.gz"), into, "--wheel", time_s)


def _run_build(sources: Path, into: Path, what: str, time_s: int) -> None:
    how = ("--no-isolation", "--skip-dependency-check", what, "--outdir", str(into))
    environ = {**os.environ, EPOCH: str(time_s)}
    subprocess.run([sys.executable, "-m", "build", *how, str(sources)], check=True, env=environ, stdout=sys.stderr)


def normalise(sdist: bytes, time_s: int) -> bytes:
    """Return an sdist with nothing of who built it."""
    packed = BytesIO()
    with (
        tarfile.open(fileobj=BytesIO(sdist)) as archive,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=time_s) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time_s, 0, 0, "", ""
            member.mode = MODES[0] if member.isdir() or member.mode & 0o100 else MODES[1]
            member.pax_headers = {}
            target.addfile(member, archive.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


def write_bill(root: Path, program: str, into: Path) -> None:
    """Write what is installed with the release."""
    (wheel,) = into.glob("*.whl")
    name = "-".join(wheel.name.split("-")[:2])
    options = ["--output-reproducible", "--of", "JSON", "--pyproject", "pyproject.toml"]
    command = [program, "requirements", *options, "-o", str(into / f"{name}.cdx.json"), LOCK]
    subprocess.run(command, cwd=root, check=True)


def write_sums(into: Path) -> None:
    """Write the digests of all files, as `sha256sum --check` reads them."""
    files = sorted(path for path in into.iterdir() if path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (into / SUMS).write_text("".join(lines))


def main() -> None:
    into = ROOT / "dist"
    into.mkdir(exist_ok=True)
    for path in into.iterdir():
        path.unlink()
    build(ROOT, into, commit_time_s(ROOT))
    write_bill(ROOT, str(Path(sys.prefix) / "judges" / "bin" / "cyclonedx-py"), into)
    write_sums(into)
    print((into / SUMS).read_text(), end="")


if __name__ == "__main__":
    main()
