"""A run of a tool: a home and a work folder of its own, settings by `metergate connect`, no network beyond this
machine, and an end of the whole process group in any case."""

import asyncio
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.agents.agents import INSTALLED, Agent, node
from tests.agents.scripts import CONTENT, FILE
from tests.support.commands import Shell

# The longest that a tool may take.
WAIT_S = 300.0
# A proxy that nobody is, for what would ask the network.
NOWHERE = "http://127.0.0.1:9"
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9])")


@dataclass(frozen=True)
class Ran:
    """What came of a run. `ended` is false where it was killed."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    ended: bool = True

    @property
    def output(self) -> str:
        """All that its user sees, in one line."""
        return re.sub(r"\s+", " ", f"{self.stdout}\n{self.stderr}")


@dataclass(frozen=True)
class Place:
    """The folders of a run."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        path = ":".join((str(Path(node()).parent), str(INSTALLED / "python" / "bin"), "/usr/local/bin:/usr/bin:/bin"))
        proxies = {f"{name}_PROXY": NOWHERE for name in ("HTTP", "HTTPS")}
        own = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config"), "PATH": path, "TERM": "dumb"}
        return {**kept, **own, **proxies, "NO_PROXY": "127.0.0.1,localhost", "NO_COLOR": "1", "CI": "1"}


def prepare(agent: Agent, folder: Path, url: str, key: str, model: str) -> Place:
    """Make the folders of a run against `url`, with the tool's settings."""
    place = Place(folder)
    for each in (place.home, place.work):
        each.mkdir(parents=True)
    (place.work / FILE).write_text(CONTENT)
    for name, text in agent.files.items():
        (place.home / name).parent.mkdir(parents=True, exist_ok=True)
        (place.home / name).write_text(text)
    if agent.connects:
        key_file = folder / "key"
        key_file.write_text(key)
        shell = Shell(folder, {"HOME": str(place.home), "XDG_CONFIG_HOME": str(place.home / ".config")})
        options = ("--api-url", url, "--key-file", str(key_file), "--model", model)
        done = shell.run("connect", agent.connects, *options)
        assert done.code == 0, done
    return place


async def run(agent: Agent, place: Place, command: list[str], url: str, key: str, wait_s: float = WAIT_S) -> Ran:
    """Run a tool to its end, at most for `wait_s`."""
    given = {name: value.replace("URL", url).replace("KEY", key) for name, value in agent.variables.items()}
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=place.work,
        env={**place.environment, **given},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    reading = asyncio.ensure_future(process.communicate())
    ended = True
    try:
        await asyncio.wait_for(asyncio.shield(reading), wait_s)
    except TimeoutError:
        ended = False
    finally:
        seconds = time.monotonic() - started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it left running
        stdout, stderr = await reading
    texts = (ESCAPES.sub("", each.decode(errors="replace")) for each in (stdout, stderr))
    return Ran(process.returncode or 0, *texts, seconds=seconds, ended=ended)
