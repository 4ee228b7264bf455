"""Somebody who uses commands."""

import asyncio
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway.conftest import Gateway
from tests.support.commands import Result, Shell

GOOD, OTHER = "tulip anvil quartz row", "harbor velvet comet sieve"


@dataclass
class Person:
    """Somebody at a terminal of their own."""

    gateway: Gateway
    folder: Path
    email: str

    def __post_init__(self) -> None:
        self.folder.mkdir()

    async def run(self, *arguments: str, **env: str) -> Result:
        """Run a command while the gateway goes on serving."""
        shell = Shell(self.folder, {"METERGATE_API_URL": self.gateway.url})
        return await asyncio.to_thread(shell.run, *arguments, env=env)

    async def done(self, *arguments: str, **env: str) -> str:
        result = await self.run(*arguments, **env)
        assert result.code == 0, result
        return result.stdout

    async def piped(self, lines: str, *arguments: str) -> str:
        """Run a command that reads these lines from stdin."""
        shell = Shell(self.folder, {"METERGATE_API_URL": self.gateway.url})
        ran = await asyncio.to_thread(
            subprocess.run,
            [*shell.program, *arguments],
            input=lines,
            capture_output=True,
            check=True,
            cwd=self.folder,
            env=shell.environment(None),
            text=True,
        )
        return str(ran.stdout)

    async def json(self, *arguments: str, **env: str) -> Any:
        return (await self.run(*arguments, "--json", **env)).json

    async def mailed(self, what: str) -> str:
        """What matches in the last mail."""
        query = "SELECT body FROM mail_outbox WHERE recipient = $1 ORDER BY id DESC LIMIT 1"
        found = re.search(what, str(await self.gateway.runtime.database.value(query, self.email)), re.MULTILINE)
        return found[0]

    async def register(self) -> None:
        await self.done("auth", "register", "--email", self.email, METERGATE_PASSWORD=GOOD)
        await self.done("auth", "verify", METERGATE_OTP=await self.mailed(r"\b[0-9]{6}\b"))


async def signed_in(gateway: Gateway, folder: Path) -> Person:
    person = Person(gateway, folder, f"{folder.name}@example.com")
    await person.register()
    return person
