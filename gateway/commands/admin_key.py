"""The admin key that `metergate up` makes where ADMIN_API_KEY is unset, and that operator commands read.

It is in `DATA_DIR/admin-key`, readable by its owner alone from its first moment on.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from billing.errors import MetergateError
from gateway.config.secret import KEY_CHARACTERS, Secret, long_enough

PREFIX: Final = "mga_"
ENTROPY_BYTES: Final = 32
"""Of this form and length, such a key is known to be none that could be guessed
(`billing.keys.secrets.made_at_random`)."""
FILE_MODE: Final = 0o600
LIMIT_BYTES: Final = 4096


class BadKeyFile(MetergateError):
    """A file that should hold a key does not, or can't be read. The message says what to do and holds no secret."""


def admin_key_file(data_dir: Path) -> Path:
    """Return the path of the admin key in a data folder."""
    return data_dir / "admin-key"


def read_key_file(path: Path) -> Secret:
    """Return the key that a file holds, without the white space around it. Raises `BadKeyFile`."""
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise BadKeyFile(f"Cannot read the key in {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadKeyFile(f"{path} holds no key: it is not plain ASCII text.") from error
    if not text or len(text) > LIMIT_BYTES or not text.isprintable() or " " in text:
        raise BadKeyFile(f"{path} holds no key: one line of printable characters was expected.")
    return Secret(text)


def find_admin_key(data_dir: Path) -> Secret | None:
    """Return the key of a data folder; None where none was made. Raises `BadKeyFile`."""
    path = admin_key_file(data_dir)
    return read_key_file(path) if path.exists() else None


def ensure_admin_key(data_dir: Path) -> Secret:
    """Return the key of a data folder, made where there is none; of several processes that make it at once, one wins.

    Raises `BadKeyFile`.
    """
    path = admin_key_file(data_dir)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
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
        raise BadKeyFile(f"Cannot make the admin key in {path}: {error.strerror}.") from error
    key = read_key_file(path)
    if not long_enough(key):
        raise BadKeyFile(
            f"The admin key in {path} has fewer than {KEY_CHARACTERS} characters: remove the file, and another is made."
        )
    return key


def _link_unless_there(source: Path, target: Path) -> None:
    """Rename without replacing: of several processes the first one makes the key."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
