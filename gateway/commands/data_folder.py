"""The files of a data folder that commands share: its keys, and the address of the `metergate up` that runs on it.

The admin key is made where ADMIN_API_KEY is unset, and read by operator commands; the service key where
SERVICE_API_KEY is. They are in `DATA_DIR/admin-key` and `DATA_DIR/service-key`, readable by their owner alone from
their first moment on.

The address is in `DATA_DIR/api-url`. This file owns when the folder's admin key may be sent there: only while the
process that wrote the file lives on this machine and holds the folder's lock. That process keeps its listening socket
open and removes the file before it closes it, so that no other program has the port meanwhile.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from billing.cli.output import USAGE, CommandFailed
from billing.errors import MetergateError
from gateway.config.secret import KEY_CHARACTERS, Secret, long_enough
from gateway.config.source import ConfigError
from gateway.embedded.folders import holder

PREFIX: Final = "mga_"
# Of this form and length, such a key is known to be none that could be guessed (`billing.keys.secrets.made_at_random`).
ENTROPY_BYTES: Final = 32
FILE_MODE: Final = 0o600
LIMIT_BYTES: Final = 4096


class BadKeyFile(MetergateError):
    """A file that should hold a key does not, or can't be read. The message says what to do and holds no secret."""


def admin_key_file(data_dir: Path) -> Path:
    """Return the path of the admin key in a data folder."""
    return data_dir / "admin-key"


def service_key_file(data_dir: Path) -> Path:
    """Return the path of the key for other services in a data folder."""
    return data_dir / "service-key"


def first_key_file(data_dir: Path) -> Path:
    """Return the path of the first account's key in a data folder, which `metergate connect` reads."""
    return data_dir / "first-key"


def read_key_file(path: Path, most_bytes: int = LIMIT_BYTES) -> Secret:
    """Return the key that a file holds, without the white space around it. Raises `BadKeyFile`."""
    try:
        with path.open("rb") as file:
            text = file.read(most_bytes + 1).decode("ascii").strip()
    except OSError as error:
        raise BadKeyFile(f"Cannot read the key in {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadKeyFile(f"{path} holds no key: it is not plain ASCII text.") from error
    if not text or len(text) > most_bytes or not text.isprintable() or " " in text:
        raise BadKeyFile(f"{path} holds no key: one line of printable characters was expected.")
    return Secret(text)


def find_admin_key(data_dir: Path) -> Secret | None:
    """Return the key of a data folder; None where none was made. Raises `BadKeyFile`."""
    path = admin_key_file(data_dir)
    return read_key_file(path) if path.exists() else None


def ensure_admin_key(data_dir: Path) -> Secret:
    """Return the admin key of a data folder, made where there is none. Raises `BadKeyFile`."""
    return _ensured(admin_key_file(data_dir), "admin")


def ensure_service_key(data_dir: Path) -> Secret:
    """Return the key for other services of a data folder, made where there is none. Raises `BadKeyFile`."""
    return _ensured(service_key_file(data_dir), "service")


def _ensured(path: Path, what: str) -> Secret:
    """Return the key in a file, made where there is none; of several processes that make it at once, one wins."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(f"{PREFIX}{secrets.token_urlsafe(ENTROPY_BYTES)}\n")
                    file.flush()
                    os.fsync(descriptor)
                _link_unless_there(temporary, path)
            finally:
                temporary.unlink()
    except OSError as error:
        raise BadKeyFile(f"Cannot make the {what} key in {path}: {error.strerror}.") from error
    key = read_key_file(path)
    if not long_enough(key):
        raise BadKeyFile(
            f"The {what} key in {path} has fewer than {KEY_CHARACTERS} characters: "
            "remove the file, and another is made."
        )
    return key


def _link_unless_there(source: Path, target: Path) -> None:
    """Rename without replacing: of several processes the first one makes the key."""
    try:
        os.link(source, target)
    except FileExistsError:
        return


def keep_first_key(data_dir: Path, key: str) -> None:
    """Write the key of the first account for its owner alone, if no file is there. Raises `BadKeyFile`."""
    try:
        descriptor = os.open(first_key_file(data_dir), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key}\n")
    except FileExistsError:
        return
    except OSError as error:
        raise BadKeyFile(f"Cannot write the key to {first_key_file(data_dir)}: {error.strerror}.") from error


@contextmanager
def explained_misuse() -> Iterator[None]:
    """Turn what reading them raises into `CommandFailed`."""
    try:
        yield
    except ConfigError as error:
        raise CommandFailed(f"The configuration can't be used:\n{error}", USAGE) from error
    except BadKeyFile as error:
        raise CommandFailed(str(error), USAGE) from error


# What tells one boot of one machine, and one network of it, from others (proc(5), network_namespaces(7)).
_MACHINE_FILES: Final = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net"))


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """A gateway's URL, and the admin key to call it with."""

    url: str
    admin_key: Secret


class _Published(msgspec.Struct, frozen=True):
    url: str
    pid: int
    machine: str


def api_url_file(data_dir: Path) -> Path:
    """Return where the address of a data folder's gateway is."""
    return data_dir / "api-url"


def publish_api_url(data_dir: Path, url: str) -> None:
    """Write the address of this process's gateway, whole or not at all, readable by its owner alone. Raises `OSError`.

    For the holder of the folder's lock, whose gateway takes the folder's own admin key.
    """
    path = api_url_file(data_dir)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_Published(url, os.getpid(), _machine())))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def withdraw_api_url(data_dir: Path) -> None:
    """Remove the address, if it is there. For the process that wrote it, while its socket is still open."""
    with suppress(OSError):  # a file that stays names a process that ends
        api_url_file(data_dir).unlink()


def find_own_gateway(data_dir: Path) -> GatewayAccess | None:
    """Return the gateway that runs on a data folder; None where there is none, or none that may be given the key.

    Raises `BadKeyFile` for an admin key that can't be read.
    """
    published = _read(api_url_file(data_dir))
    if published is None or published.machine != _machine() or not _lives(published.pid):
        return None
    try:
        if holder(data_dir) != published.pid:
            return None
    except OSError:
        return None
    admin_key = find_admin_key(data_dir)
    return None if admin_key is None else GatewayAccess(published.url, admin_key)


def _read(path: Path) -> _Published | None:
    """Return the content of a file that belongs to this user and that no other user can write."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != FILE_MODE:
                return None
            return msgspec.json.decode(file.read(LIMIT_BYTES), type=_Published)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return True


def _machine() -> str:
    """Name this boot of this machine and this network of it; the host's name where the system has no /proc."""
    try:
        boot, network = _MACHINE_FILES
        return f"{boot.read_text('ascii').strip()} {network.readlink()}"
    except (OSError, UnicodeDecodeError):
        return os.uname().nodename
