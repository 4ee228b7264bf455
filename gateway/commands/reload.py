"""`metergate reload`: new workers in the place of those that run, without a refused request.

Workers of another release, or of another configuration: what is installed and configured when they start. The
supervisor stays. While it runs it holds the lock of `DATA_DIR/gateway`, where its process id is found, and what became
of each time that it was asked.
"""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR2
from typing import Annotated, Final

import msgspec
import typer

from billing.cli import REFUSED, UNREACHABLE, CommandFailed, Output, Shown, add_command
from gateway.commands.store_options import refuse_api_url
from gateway.embedded.folders import AlreadyRunning, holder, locked

FOLDER: Final = "gateway"
FOLDER_MODE: Final = 0o700
FILE: Final = "replaced"
LIMIT_BYTES: Final = 4096
LOOK_S: Final = 0.1


class Replaced(msgspec.Struct, frozen=True):
    """How often new workers were begun, how often that ended, and what kept the last ones from serving."""

    begun: int = 0
    times: int = 0
    why_not: str = ""


@dataclass(slots=True)
class Announcement:
    """What becomes of each replacement, written where `metergate reload` reads it; nowhere without a `folder`."""

    folder: Path | None
    begun: int = 0
    times: int = 0

    def begin(self) -> None:
        """Tell that workers which read their configuration from now on are started."""
        self.begun += 1
        self._tell("")

    def end(self, why_not: str) -> None:
        """Tell what kept them from serving, or nothing."""
        self.times += 1
        self._tell(why_not)

    def _tell(self, why_not: str) -> None:
        if self.folder is not None:
            with suppress(OSError):  # the command waits in vain, and says where to look
                _write(self.folder, Replaced(self.begun, self.times, why_not))


@contextmanager
def announced(data_dir: Path, note: Callable[[str], None]) -> Iterator[Announcement]:
    """Let `metergate reload` find this process while the context is open. Main thread only."""
    folder = data_dir / FOLDER
    made = Announcement(None)

    def asked_early(*_: object) -> None:
        made.begin()
        made.end("")

    # Until the supervisor obeys it. Its default would kill a gateway that starts; workers are yet to be started.
    signal.signal(SIGUSR2, asked_early)
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            _write(folder, Replaced())
            made.folder = folder
        except AlreadyRunning:
            note(f"Another gateway runs from {data_dir}: `metergate reload` finds that one.")
        except OSError as error:
            note(
                f"Cannot write {folder}: {error.strerror}. `metergate reload` does not find this gateway; SIGUSR2 does."
            )
        yield made


def add_reload(app: typer.Typer) -> None:
    """Add it."""
    add_command(app, "reload", reload)


async def reload(
    output: Output,
    wait_s: Annotated[float, typer.Option("--wait-s", min=1, max=3600, help="How long to wait for them.")] = 300.0,
) -> None:
    """Put new workers in the place of those that run.

    They have the release and the configuration that are installed now. Not one request is refused. The old ones serve
    on the connections that they have for at most shutdown_grace_s. Where a new one does not come to serve, those before
    it stay replaced, and the others serve on. To be called where the gateway runs, as its user or root. The environment
    stays what it was.
    """
    refuse_api_url(output)
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.environment import command_environment

    with explained_misuse():
        data_dir = command_environment(os.environ).data_dir
    folder = data_dir / FOLDER
    try:
        pid, before = holder(folder), _read(folder)
        if pid is None:
            raise CommandFailed(f"No gateway runs from {data_dir}: METERGATE_DATA_DIR names its folder.", UNREACHABLE)
        os.kill(pid, SIGUSR2)
    except PermissionError as error:
        raise CommandFailed(
            f"The gateway of {data_dir} is another user's: run this as that user or as root."
        ) from error
    with output.step("New workers serve"):
        found = await _became(folder, pid, before.begun, wait_s)
    if found.why_not:
        raise CommandFailed(
            f"{found.why_not}. Workers that were not replaced serve on, and are started with the same mistake if they "
            "end: the gateway's log says what it is.",
            REFUSED,
        )
    told = "The old workers end with their connections, within shutdown_grace_s."
    output.show(Shown({"pid": pid, "reloaded": True}, (told,)))


async def _became(folder: Path, pid: int, before: int, wait_s: float) -> Replaced:
    import asyncio

    try:
        async with asyncio.timeout(wait_s):
            while holder(folder) == pid:
                # One that had begun before may have read an older configuration: its end says nothing.
                if (found := _read(folder)).times > before:
                    return found
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise CommandFailed(
            f"No new workers serve after {wait_s:g} s; they may still come. The log says more."
        ) from None
    raise CommandFailed("The gateway has ended meanwhile; its log says why.", UNREACHABLE)


def _read(folder: Path) -> Replaced:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes()[:LIMIT_BYTES], type=Replaced)
    except (FileNotFoundError, msgspec.DecodeError):
        return Replaced()


def _write(folder: Path, replaced: Replaced) -> None:
    beside = folder / f"{FILE}.{secrets.token_hex(8)}"
    beside.write_bytes(msgspec.json.encode(replaced))
    beside.replace(folder / FILE)
