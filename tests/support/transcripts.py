"""What a page of the documentation says to type at a terminal, and what it says comes: `console` blocks, in which a
line that begins with `$` is typed and the lines below it come."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROMPTS = ("Password:", "Password again:", "Mailed code:")
_ID = re.compile(r"\b([a-z]+_)\.\.\.")
_SAID = re.compile(r"\b[a-z]+_[0-9A-Za-z]{20,}")


@dataclass(frozen=True)
class Step:
    """A line that is typed, and what comes. `...` stands for any text there; in what is typed, `acc_...` stands for the
    last thing that came and begins so."""

    typed: str
    comes: str

    def has_come(self, output: str) -> bool:
        """Whether this is what comes, but for spaces."""
        lines = [line for line in self.comes.splitlines() if not line.startswith(_PROMPTS)]
        pattern = re.escape(_spaced("\n".join(lines))).replace(re.escape("..."), ".*?")
        return re.fullmatch(pattern, _spaced(output), re.DOTALL) is not None


@dataclass
class Screen:
    """What has come so far."""

    seen: dict[str, str] = field(default_factory=dict)

    def typed(self, step: Step) -> str:
        """What is typed, with what has come in place of `acc_...`."""
        return _ID.sub(lambda found: self.seen[found[1]], step.typed)

    def show(self, output: str) -> None:
        for each in _SAID.findall(output):
            self.seen[each.partition("_")[0] + "_"] = each


def steps_of(page: Path) -> Iterator[Step]:
    """Steps of a page, in their order."""
    for block in _BLOCK.findall(page.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            typed, _, comes = part.partition("\n")
            yield Step(typed, comes)


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
