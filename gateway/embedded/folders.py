"""Where the parts of one data folder are, and which users may enter it.

    DATA_DIR/lock  endpoints.json  redis.conf  redis.pid  redis/  log/    (admin-key, api-url: the commands')
    DATA_DIR/postgres/                  Postgres's data; or, where its user can't get to it,
    DATA_DIR/postgres-is-in             the name of the folder elsewhere that has `postgres/` (and `run/`)
    DATA_DIR/run/redis.sock, run/pg/    the sockets; or a folder of a shorter name under the temporary folder

Invariant kept here: Redis trusts any user that reaches its socket, and both any that reaches their files, so only we
(and the user that Postgres runs as) can. A folder in a public place is used only if it is ours and nobody else can
write to it.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.account import Account, is_orphaned, user_name
from gateway.embedded.lock import EmbeddedServersError

SOCKET_PATH_LIMIT_BYTES = 100  # sockaddr_un holds 108 on Linux and 104 on macOS, with the final NUL
POINTER_NAME = "postgres-is-in"
# Postgres's data of a data folder that its user can't enter, and copied binaries: the first of these that can be used.
SHARED_PARENTS: tuple[Path, ...] = (Path("/var/lib/metergate"), Path("/var/tmp/metergate"))  # noqa: S108 - checked by `own_folder`
_MAX_NAMES = 1000  # folders elsewhere for one data folder that was deleted and made again
_AWKWARD_IN_SOCKET_PATHS = re.compile(r'[,"\x00-\x1f]')  # Postgres and its clients split lists of folders at commas


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one data folder; all exist, with the right owners, except `postgres` before the first start."""

    home: Path
    postgres: Path
    run: Path

    def __post_init__(self) -> None:
        if not all(path.is_absolute() for path in (self.home, self.postgres, self.run)):
            raise ValueError("folders are absolute paths")

    @property
    def redis(self) -> Path:
        """Return the folder of Redis's data."""
        return self.home / "redis"

    @property
    def redis_conf(self) -> Path:
        """Return the file of Redis's configuration."""
        return self.home / "redis.conf"

    @property
    def redis_pid(self) -> Path:
        """Return the file of Redis's process id."""
        return self.home / "redis.pid"

    @property
    def redis_socket(self) -> Path:
        """Return the socket that Redis listens on."""
        return self.run / "redis.sock"

    @property
    def postgres_run(self) -> Path:
        """Return the folder of Postgres's socket."""
        return self.run / "pg"

    @property
    def postgres_socket(self) -> Path:
        """Return the socket that Postgres listens on."""
        return self.postgres_run / ".s.PGSQL.5432"

    @property
    def logs(self) -> Path:
        """Return the folder of both servers' logs."""
        return self.home / "log"


def make_home(data_dir: Path, account: Account | None) -> Path:
    """Make the data folder where it is missing; its absolute path. Raises OSError when that can't be."""
    home = data_dir.resolve()
    home.parent.mkdir(parents=True, exist_ok=True)
    if not home.is_dir():
        home.mkdir()
        home.chmod(_passable(account))
    return home


def postgres_home(home: Path, account: Account | None, report: Callable[[str], None]) -> Path:
    """Return the folder of Postgres's data: `home`, or, if `account` can't enter that, one elsewhere that a file names.

    Raises EmbeddedServersError where neither will do.
    """
    pointer = home / POINTER_NAME
    if pointer.exists():
        elsewhere = Path(pointer.read_text("utf-8", "surrogateescape").rstrip("\n"))
        if not (elsewhere.is_absolute() and elsewhere.is_dir() and elsewhere.stat().st_uid == os.geteuid()):
            raise EmbeddedServersError(
                f"{pointer} says that Postgres's data is in {elsewhere}, and it is not there. "
                f"Bring it back, or delete {home} to start with nothing."
            )
        return elsewhere
    if account is None or account.can_enter(home):
        return home
    if (home / "postgres").exists():
        raise EmbeddedServersError(
            f"Postgres runs as {account.name!r}, who can't enter {home} any more. "
            "Let others pass through it and the folders above it (chmod o+x)."
        )
    elsewhere = _new_folder_elsewhere(home, account, report)
    temporary = pointer.with_suffix(".new")
    temporary.write_text(f"{elsewhere}\n", "utf-8", "surrogateescape")
    temporary.replace(pointer)
    return elsewhere


def has_data(data_dir: Path) -> bool:
    """Return whether a data folder has Postgres's data, or says where that is."""
    return (data_dir / "postgres").exists() or (data_dir / POINTER_NAME).exists()


def make_folders(home: Path, data_home: Path, account: Account | None) -> Folders:
    """Make missing folders; `data_home` is the result of `postgres_home`. Raises EmbeddedServersError."""
    folders = Folders(home=home, postgres=data_home / "postgres", run=_run_folder(home, data_home, account))
    for folder in (folders.redis, folders.logs):
        own_folder(folder, 0o700)
    folders.postgres_run.mkdir(exist_ok=True)
    hand_over(folders.postgres_run, account)
    if folders.postgres.exists():
        _refuse_data_of_others(folders.postgres, account)
    return folders


def hand_over(folder: Path, account: Account | None) -> None:
    """Make `folder` private to the user that Postgres runs as."""
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


def take_over(data: Path, account: Account | None) -> bool:
    """Give the data of a user that is to be followed to the one that Postgres runs as now; return whether there was
    any.

    Nothing runs on it. Only what belongs to that user is given, no link is followed, and the folder itself comes last:
    broken off, it is done again.
    """
    before = data.stat().st_uid
    if account is None or before == account.uid:
        return False
    for _, folders, files, folder_fd in os.fwalk(data, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            if os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_uid == before:
                os.chown(name, account.uid, account.gid, dir_fd=folder_fd, follow_symlinks=False)
    os.chown(data, account.uid, account.gid, follow_symlinks=False)
    return True


def write_private(path: Path, text: str, account: Account | None) -> None:
    """Write a file of Postgres's user, whole or not at all, into a folder that this user may write to as well."""
    half = path.with_name(f"{path.name}.new")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)
    half.replace(path)


def own_folder(folder: Path, mode: int) -> Path:
    """Make `folder`, or check that it is ours alone to write to. Raises PermissionError if not, or another OSError."""
    try:
        folder.mkdir()
        folder.chmod(mode)
    except FileExistsError:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(
                f"{folder} is not a folder that belongs to {user_name(os.geteuid())!r} alone"
            ) from None
    return folder


def shared_folders(account: Account) -> Iterator[Path]:
    """Yield the folders of ours in public places that `account` can enter, made on the way."""
    for parent in SHARED_PARENTS:
        try:
            if account.can_enter(own_folder(parent, 0o711)):
                yield parent
        except OSError:
            continue


def digest(path: Path) -> str:
    """Return twelve hexadecimal digits that stand for a path in the names of folders."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _passable(account: Account | None) -> int:
    return 0o700 if account is None else 0o711


def _new_folder_elsewhere(home: Path, account: Account, report: Callable[[str], None]) -> Path:
    name = f"{user_name(os.geteuid())}-{digest(home)}"
    for parent in shared_folders(account):
        for number in range(1, _MAX_NAMES):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:  # of an earlier data folder in this place, which was deleted: not ours to touch
                report(f"{folder} has the Postgres data of an earlier {home}; delete it if nobody needs it.")
                continue
            folder.chmod(0o711)
            report(f"Postgres runs as {account.name!r}, who can't enter {home}: its data is in {folder}.")
            return folder
    raise EmbeddedServersError(
        f"Postgres runs as {account.name!r}, who can't enter {home}, and no folder for its data can be made in any of: "
        f"{', '.join(map(str, SHARED_PARENTS))}. Choose a METERGATE_DATA_DIR that others can pass through."
    )


def _run_folder(home: Path, data_home: Path, account: Account | None) -> Path:
    run = data_home / "run"
    if _fits(run):
        return own_folder(run, _passable(account))
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - checked by `own_folder`
        run = Path(parent, f"metergate-{os.geteuid()}-{digest(home)}")
        if _fits(run) and (account is None or account.can_enter(run.parent)):
            return own_folder(run, _passable(account))
    raise EmbeddedServersError(
        f"{data_home} is too long a path for sockets, and the temporary folder does not serve either."
    )


def _fits(run: Path) -> bool:
    longest = run / "pg" / ".s.PGSQL.5432"
    return len(os.fsencode(longest)) < SOCKET_PATH_LIMIT_BYTES and not _AWKWARD_IN_SOCKET_PATHS.search(str(run))


def _refuse_data_of_others(data: Path, account: Account | None) -> None:
    owner, expected = data.stat().st_uid, os.geteuid() if account is None else account.uid
    if owner != expected and not (account is not None and is_orphaned(owner)):
        raise EmbeddedServersError(
            f"The Postgres data in {data} belongs to {user_name(owner)!r}, not to {user_name(expected)!r}. "
            "Start Metergate as the user who made it, or choose another METERGATE_DATA_DIR."
        )
