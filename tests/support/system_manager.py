"""systemd as the first process of namespaces of its own, with units of a test and nothing else.

What it writes lies in memory there and goes with it. Needs root, systemd and a hierarchy of control groups of
version 2.
"""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.answering import until
from tests.support.commands import CHECKOUT
from tests.support.programs import PATH, program

SYSTEMD = Path("/lib/systemd/systemd")
# The home of the Python that runs the tests, there: where it is, others may not see it.
PYTHON = "/opt/python"
NAMESPACES = ("--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--mount-proc")
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "multi-user")
TEMPORARY = "/tmp", "/var/tmp"  # noqa: S108 - both are mounted anew
NO_UNIT = "[Unit]\nDefaultDependencies=no\n"
# Ends with this process, however that ends: systemd does not, of itself.
RUN = f"""
echo $$ > "$1/cgroup.procs"
unshare {" ".join(NAMESPACES)} sh "$2" < /dev/null &
read -r nothing
pkill -KILL -P $!
wait
"""
ENVIRONMENT = f"""#!/bin/sh
export LD_LIBRARY_PATH={PYTHON}/lib PYTHONHOME={PYTHON} PYTHONPATH=/opt/checkout:/opt/venv PYTHONDONTWRITEBYTECODE=1
"""
INTERPRETER = f"""{ENVIRONMENT}exec {PYTHON}/bin/{Path(sys.executable).resolve().name} "$@"
"""
METERGATE = f"""{ENVIRONMENT}exec /opt/metergate/bin/python -m gateway "$@"
"""


@dataclass(frozen=True)
class Manager:
    """One that runs."""

    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Of the manager itself, as this process sees it: the child of what has made its namespaces."""
        (unshare,) = psutil.Process(self.process.pid).children()
        return unshare.children()[0].pid

    async def systemctl(self, *arguments: str) -> str:
        """What `systemctl` says there."""
        command = ["nsenter", "-t", str(self.pid), "-m", "-p", "systemctl", "--no-pager", *arguments]
        run = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = await run.communicate()
        return said.decode()

    async def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        said = await self.systemctl("show", unit, f"--property={','.join(names)}")
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def unified_hierarchy() -> Path:
    """Where control groups of version 2 are; skips where there are none."""
    mounted = Path("/proc/self/mountinfo").read_text()
    found = re.search(r"^(?:\S+ ){4}(\S+) [^\n]* - cgroup2 ", mounted, re.MULTILINE)
    if found is None:
        pytest.skip("no hierarchy of control groups of version 2 is mounted here")
    return Path(found[1])


@asynccontextmanager
async def manager(folder: Path, files: Mapping[str, str], unit: Path) -> AsyncIterator[Manager]:
    """Run systemd with `unit`, started; `files` are written there by their paths, as root's own."""
    skip_where_it_cannot_run()
    lay_out(folder / "units", unit)
    group = unified_hierarchy() / f"metergate-test-{os.getpid()}-{os.urandom(4).hex()}"
    script = folder / "boot"
    script.write_text(boot_script(folder, files))
    group.mkdir()
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", RUN, "sh", str(group), str(script), env={"PATH": PATH}, stdin=subprocess.PIPE
    )
    try:
        yield Manager(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await until(lambda: removed(group))


def skip_where_it_cannot_run() -> None:
    if os.geteuid() != 0 or not SYSTEMD.exists():
        pytest.skip("systemd itself is run, as root, and one of both is missing")
    for name, package in (("nsenter", "util-linux"), ("pkill", "procps")):
        program(name, package)
    if subprocess.run(["unshare", *NAMESPACES, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root may make no namespaces here")


def lay_out(units: Path, unit: Path) -> None:
    """Write all units that there are: the one, what it is said to need, and where its log goes."""
    units.mkdir()
    for name in TARGETS:
        (units / f"{name}.target").write_text(NO_UNIT)
    (units / unit.name).write_text(unit.read_text())
    (units / "test.target").write_text(f"{NO_UNIT}Wants={unit.name}\n")
    (units / f"{unit.name}.d").mkdir()
    log = "[Service]\nStandardOutput=append:/opt/test/log\nStandardError=append:/opt/test/log\n"
    (units / f"{unit.name}.d" / "log.conf").write_text(log)


def removed(group: Path) -> bool:
    """Whether a control group is gone, which waits for the last of its processes."""
    try:
        for path in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
            path.rmdir()
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


def boot_script(folder: Path, files: Mapping[str, str]) -> str:
    """What makes the place that systemd starts in, and then is systemd."""
    places = {
        CHECKOUT: "/opt/checkout",
        Path(sys.base_prefix): PYTHON,
        site_packages(): "/opt/venv",
        folder: "/opt/test",
    }
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs /opt"]
    lines += [f"mkdir -p {there} && mount --bind {shlex.quote(str(here))} {there}" for here, there in places.items()]
    lines += [f"mount -t tmpfs tmpfs {place}" for place in ("/run", "/var/lib", *TEMPORARY)]
    lines += ["mkdir /run/etc /run/work"]
    lines += ["mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work /etc"]
    programs = {"/opt/metergate/bin/metergate": METERGATE, "/opt/metergate/bin/python": INTERPRETER}
    for path, text in {**files, **programs}.items():
        lines += [f"mkdir -p {Path(path).parent}", f"cat > {path} <<'EOF'\n{text}EOF", f"chmod 644 {path}"]
    lines += [f"chmod 755 {' '.join(programs)}", "umount -R /sys/fs/cgroup 2>/dev/null || true"]
    lines += ["mount -t cgroup2 cgroup2 /sys/fs/cgroup", "mount --make-rshared /"]
    named = "container=test SYSTEMD_UNIT_PATH=/opt/test/units SYSTEMD_LOG_TARGET=null"
    return "\n".join([*lines, f"exec env {named} {SYSTEMD} --system --unit=test.target --show-status=no", ""])


def site_packages() -> Path:
    """Where what the tests run with is installed."""
    return Path(pytest.__file__).parents[1]
