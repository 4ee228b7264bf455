"""Every command that a message, a comment or a page of the documentation names is there, with the options named."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from gateway.commands.root import make_app
from tests.support.commands import CHECKOUT

NAMED = re.compile(
    r"`(?:[A-Z_]+=\S+ )*metergate ([a-z][^`\n]*)`"  # in a sentence
    r"|^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\w+=\$\()?metergate ([a-z].*)$"  # in a block of a page
    r"|Then: metergate ([a-z][^\"`\n]*)|To work there: metergate ([a-z][^\"`\n]*)|Run: metergate ([a-z][^\"`\n]*)",
    re.MULTILINE,
)
WORD = re.compile(r"[a-z][a-z|-]*")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Options of another command, in a line of docs/cli.md.
ELSEWHERE = re.compile(r"\[the options of [^\]]*\]")
HISTORY = "CHANGELOG.md"


def texts() -> Iterator[tuple[str, str]]:
    """Files whose texts people read. Strings that a program joins are joined."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True, text=True).stdout
    for name in listed.split("\0"):
        read_by_people = name.startswith(("billing/", "gateway/", "metergate/", "docs/")) or "/" not in name
        if read_by_people and name.endswith((".py", ".md")) and name != HISTORY:
            yield name, re.sub(r'"\s*\n\s*f?"', "", (CHECKOUT / name).read_text())


def commands_named() -> list[tuple[str, str]]:
    return sorted({(name, next(filter(None, found))) for name, text in texts() for found in NAMED.findall(text)})


@pytest.fixture(scope="module")
def root() -> Any:
    return typer.main.get_command(make_app())


def wrong(root: Any, named: str) -> str | None:
    """What there is not of a command as it was named; alternatives stand beside each other, as in `list|show`."""
    reached = [root]
    words = ELSEWHERE.sub("", named).split()
    while words and WORD.fullmatch(words[0]) and any(hasattr(each, "list_commands") for each in reached):
        alternatives = words.pop(0).split("|")
        below = {name: each.get_command(None, name) for name in alternatives for each in reached if is_group(each)}
        if missing := [name for name, command in below.items() if command is None]:
            return f"no command {missing}"
        reached = list(below.values())
    options = {option for each in reached for parameter in each.params for option in parameter.opts}
    missing = [option for option in OPTION.findall(" ".join(words)) if option not in {*options, "--help", "--version"}]
    return f"no option {missing}" if missing and not all(map(is_group, reached)) else None


def is_group(command: Any) -> bool:
    return hasattr(command, "list_commands")


def test_commands_that_are_named_are_there(root):
    named = commands_named()
    assert len(named) > 100
    found = [f"{name}: metergate {command}: {reason}" for name, command in named if (reason := wrong(root, command))]
    assert found == []


@pytest.mark.parametrize(
    "named", ["nope", "auth nope", "keys list|nope", "keys list --nope", "operator account nope x"]
)
def test_one_that_is_not_there_is_found(root, named):
    assert wrong(root, named)
