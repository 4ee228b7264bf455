"""One data folder: where its parts are, the process that owns it, which users may enter it, and the user that the
embedded Postgres runs as; with what can go wrong with the servers, in words.

    DATA_DIR/lock  endpoints.json  redis.conf  redis.pid  redis/  log/    (admin-key, api-url: the commands')
    DATA_DIR/postgres/                  Postgres's data; or, where its user can't get to it,
    DATA_DIR/postgres-is-in             the name of the folder elsewhere that has `postgres/` (and `run/`)
    DATA_DIR/run/redis.sock, run/pg/    the sockets; or a folder of a shorter name under the temporary folder

At most one live process runs servers on a data folder. Its lock is a flock(2) on an open file, so it ends with its
holder however that ends; the file is close-on-exec, so no server inherits it.

Postgres refuses to run as root. When we are root it runs as the system user SERVER_USER, made where it is missing as a
package would do it, so that no other program runs as the same user and can read the data or take the server's place.
Where no user can be made (a read-only /etc, no tool for it) it runs as `nobody`, and says so. Otherwise it runs as
ourselves.

Redis trusts any user that reaches its socket, and both any that reaches their files, so only we
(and the user that Postgres runs as) can. A folder in a public place is used only if it is ours and nobody else can
write to it.
"""

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from billing.errors import MetergateError


class EmbeddedServersError(MetergateError):
    """The embedded servers cannot run; the message says why and, where it is known, what to do."""


class AlreadyRunning(EmbeddedServersError):
    """Another live process has the servers of `data_dir`; `pid` is its process id where it could be read."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        self.data_dir, self.pid = data_dir, pid
        process = "" if pid is None else f" (process {pid})"
        super().__init__(f"Metergate is already running in {data_dir}{process}.")


class ServerFailed(EmbeddedServersError):
    """A server did not start; the message ends with what it last wrote to its log."""

    def __init__(self, name: str, why: str, log: Path, last_words: str) -> None:
        quoted = f"\n{last_words}" if last_words else ""
        super().__init__(f"{name} did not start: {why}. Its log is {log}.{quoted}")


LOCK_PATIENCE_S = 0.5  # `held` takes the lock for an instant to look: a taker asks again before it gives up
_LOCK_RETRY_S = 0.02


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, with our process id in it. Blocks up to LOCK_PATIENCE_S; raises AlreadyRunning."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not _take(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(folder, _pid_in(descriptor))
            time.sleep(_LOCK_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def held(folder: Path) -> bool:
    """Return whether a live process holds the lock of `folder`."""
    return _look(folder)[0]


def holder(folder: Path) -> int | None:
    """Return the process id that the lock of `folder` names; None where no live process holds it, or none is named."""
    return _look(folder)[1]


def _look(folder: Path) -> tuple[bool, int | None]:
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    try:
        taken = not _take(descriptor, fcntl.LOCK_SH)
        return taken, _pid_in(descriptor) if taken else None
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


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
    def postgres_socket_lock(self) -> Path:
        """Return the file in which Postgres names the owner of its socket."""
        return self.postgres_run / ".s.PGSQL.5432.lock"

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
