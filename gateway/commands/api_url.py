"""The address of a running `metergate up`, in `DATA_DIR/api-url`, for operator commands on the same data folder.

This file owns when the folder's admin key may be sent there: only while the process that wrote the file lives on this
machine and holds the folder's lock. That process keeps its listening socket open and removes the file before it closes
it, so that no other program has the port meanwhile.
"""

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.commands.first_start import FILE_MODE, find_admin_key
from gateway.config.secret import Secret
from gateway.embedded.folders import holder

LIMIT_BYTES: Final = 4096
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
