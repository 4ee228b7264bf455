"""Scripts that stand between the keeper and a server, and become the server: with another environment, or later.

They have the server's name, and the server keeps their process id, so that the keeper knows it all the same.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from gateway.embedded.folders import Account
from gateway.embedded.process import postgres_bin, valkey_server

POLL_S = 0.02


@contextmanager
def between(
    folder: Path, environment: Mapping[str, Mapping[str, Path]] | None = None, wait_while: Path | None = None
) -> Iterator[None]:
    """Servers that are started meanwhile, and started again later, get `environment["redis"]` and
    `environment["postgres"]`; Redis is not started while there is a file `wait_while`. The scripts are in `folder`."""
    found = environment or {}
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # Postgres runs as another user

    def postgres(account: Account | None) -> Path:
        real = postgres_bin(account)
        (folder / "initdb").symlink_to(real / "initdb")
        _script(folder, real / "postgres", found.get("postgres", {}), None)
        return folder

    def redis() -> Path:
        return _script(folder, valkey_server(), found.get("redis", {}), wait_while)

    with (
        mock.patch("gateway.embedded.servers.postgres_bin", postgres),
        mock.patch("gateway.embedded.servers.valkey_server", redis),
    ):
        yield


def _script(folder: Path, real: Path, environment: Mapping[str, Path], wait_while: Path | None) -> Path:
    script, lines = folder / real.name, ["#!/bin/sh"]
    if wait_while is not None:
        lines.append(f"while [ -e {shlex.quote(str(wait_while))} ]; do sleep {POLL_S}; done")
    given = "".join(f"{name}={shlex.quote(str(value))} " for name, value in environment.items())
    lines.append(f'{given}exec {shlex.quote(str(real))} "$@"')
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)
    return script
