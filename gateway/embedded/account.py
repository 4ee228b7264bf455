"""Which user the embedded Postgres runs as, and what that user can reach.

Postgres refuses to run as root. When we are root it runs as `nobody`; otherwise, as ourselves.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.errors import EmbeddedServersError

UNPRIVILEGED_USER = "nobody"
_LOOK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine other than ourselves, whom we, as root, start programs as."""

    name: str
    uid: int
    gid: int

    def __post_init__(self) -> None:
        if self.uid <= 0 or self.gid < 0:
            raise ValueError(f"{self.name} is not an unprivileged user (uid {self.uid}, gid {self.gid})")

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can enter `folder`; found by trying it, so that access lists and mounts count."""
        return self._can('cd -- "$1"', folder)

    def can_run(self, program: Path) -> bool:
        """Whether this user can run `program`, which must know `--version`."""
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


def server_account() -> Account | None:
    """The account that Postgres runs as: None for our own, unless we are root. Raises EmbeddedServersError."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise EmbeddedServersError(
            f"Postgres does not run as root, and this machine has no user {UNPRIVILEGED_USER!r} to run it as. "
            "Start Metergate as an ordinary user."
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def user_name(uid: int) -> str:
    """The name of the user `uid`, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
