"""Which user the embedded Postgres runs as, and what that user can reach.

Postgres refuses to run as root. When we are root it runs as the system user SERVER_USER, made where it is missing as a
package would do it, so that no other program runs as the same user and can read the data or take the server's place.
Where no user can be made (a read-only /etc, no tool for it) it runs as `nobody`, and says so. Otherwise it runs as
ourselves.
"""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.lock import EmbeddedServersError

SERVER_USER = "metergate-pg"
SHARED_USER = "nobody"
# Commands that make a system user, whose name is added: of the first that is there.
MAKERS: tuple[tuple[str, ...], ...] = (
    ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"),
    ("adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/sbin/nologin"),  # BusyBox, as in Alpine
)
_TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MAKING_ATTEMPTS = 10  # another process may have the lock on /etc/passwd
_MAKING_PAUSE_S = 0.2
_LOOK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine other than ourselves, whom we, as root, start programs as."""

    name: str
    uid: int
    gid: int
    shared: bool = False
    """Whether other programs may run as the same user."""

    def __post_init__(self) -> None:
        if self.uid <= 0 or self.gid < 0:
            raise ValueError(f"{self.name} is not an unprivileged user (uid {self.uid}, gid {self.gid})")

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user can enter `folder`; found by trying it, so that access lists and mounts count."""
        return self._can('cd -- "$1"', folder)

    def can_run(self, program: Path) -> bool:
        """Return whether this user can run `program`, which must know `--version`."""
        return self._can('"$1" --version', program)

    def _can(self, script: str, path: Path) -> bool:
        try:
            done = subprocess.run(  # noqa: S603
                ["/bin/sh", "-c", script, "sh", str(path)],
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_LOOK_TIMEOUT_S,
                check=False,
            )
        except OSError as error:  # a container without the right to change users
            raise EmbeddedServersError(
                f"Postgres does not run as root, and this root can't start programs as {self.name!r} "
                f"({error.strerror}). Start Metergate as an ordinary user."
            ) from error
        return done.returncode == 0


def server_account(report: Callable[[str], None]) -> Account | None:
    """Return the account that Postgres runs as: None for our own, unless we are root. Raises EmbeddedServersError."""
    if os.geteuid() != 0:
        return None
    own = _find(SERVER_USER) or _make(report)
    if own is not None:
        return Account(own.pw_name, own.pw_uid, own.pw_gid)
    shared = _find(SHARED_USER)
    if shared is None:
        raise EmbeddedServersError(
            f"Postgres does not run as root, and this machine has no user {SERVER_USER!r} to run it as. "
            "Make one (useradd --system), or start Metergate as an ordinary user."
        )
    report(
        f"Warning: Postgres runs as {shared.pw_name!r}, whose other programs can read its data, because no user "
        f"{SERVER_USER!r} could be made: make one (useradd --system {SERVER_USER})."
    )
    return Account(shared.pw_name, shared.pw_uid, shared.pw_gid, shared=True)


def is_orphaned(uid: int) -> bool:
    """Return whether what belongs to a user is to be taken over: one that earlier versions ran as, or that is gone."""
    shared = _find(SHARED_USER)
    if shared is not None and uid == shared.pw_uid:
        return True
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return False


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _make(report: Callable[[str], None]) -> pwd.struct_passwd | None:
    """Make the user. None where that can't be done."""
    command = next((maker for maker in MAKERS if shutil.which(maker[0], path=_TOOLS_PATH)), None)
    if command is None:
        return None
    program = shutil.which(command[0], path=_TOOLS_PATH) or command[0]
    for _ in range(_MAKING_ATTEMPTS):
        try:
            done = subprocess.run(  # noqa: S603
                [program, *command[1:], SERVER_USER],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_LOOK_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return _find(SERVER_USER)
        made = _find(SERVER_USER)  # by us, or by another process meanwhile
        if made is not None:
            if done.returncode == 0:
                report(f"Made the system user {SERVER_USER!r}, which Postgres runs as.")
            return made
        if not os.access("/etc", os.W_OK):
            return None
        time.sleep(_MAKING_PAUSE_S)
    return None


def user_name(uid: int) -> str:
    """Return the name of the user `uid`, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
