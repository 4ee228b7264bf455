"""What can go wrong with the embedded servers, in words for the person who started them."""

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
