"""What sent a request: the conversation that it belongs to, and the tool, by the headers of known ones. For the record
alone: nothing is limited or priced by it.

A session is named by `X-Metergate-Session`, else by the first of `session_headers` that is there, else in the body
where an API has a place for it. Names are kept where they are printable ASCII, up to MOST_CHARACTERS. A tool is one of
TOOLS: whatever clients send, the ledger has no other names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from multidict import MultiMapping, istr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_CHARACTERS: Final = 128
# Of a User-Agent, what is looked at.
MOST_AGENT_BYTES: Final = 256
# User agents that are remembered.
KEPT: Final = 1_024
SESSION: Final = istr("X-Metergate-Session")
USER_AGENT: Final = istr("User-Agent")
ORIGINATOR: Final = istr("originator")
AGENT: Final = istr("x-claude-code-agent-id")
PARENT_AGENT: Final = istr("x-claude-code-parent-agent-id")
# Tools and libraries by the product that their User-Agent begins with, in lower case.
TOOLS: Final[Mapping[str, str]] = {
    "codex": "codex",
    "claude-cli": "claude-code",
    "geminicli": "gemini-cli",
    "opencode": "opencode",
    "qwencode": "qwen-code",
    **{name: name for name in ("cline", "continue", "aider", "crush", "goose", "openhands", "open-webui", "n8n")},
    **{name: name for name in ("litellm", "pydantic-ai", "ai-sdk", "curl", "python-requests", "python-httpx")},
    "roocode": "roo-code",
    "kilo-code": "kilo-code",
    "google-genai-sdk": "google-genai",
    "agents/python": "openai-agents",
    "agents/js": "openai-agents",
    **{f"{kind}openai/{language}": f"openai-{language}" for kind in ("", "async") for language in ("python", "js")},
    **{
        f"{kind}anthropic/{language}": f"anthropic-{language}"
        for kind in ("", "async")
        for language in ("python", "js")
    },
}
# What the user of a tool sets to have it ask for less output.
OUTPUT_SETTINGS: Final[Mapping[str, str]] = {"claude-code": "CLAUDE_CODE_MAX_OUTPUT_TOKENS"}
# Products that are followed by what kind of the tool it is: `codex_exec`, `GeminiCLI-tui`.
FAMILIES: Final = ("codex", "geminicli")
_LANGUAGES: Final = frozenset({"python", "js"})
_VERSION: Final = re.compile(r"v?([0-9][0-9A-Za-z.+_-]{0,31})", re.ASCII)


class Sender(msgspec.Struct, frozen=True):
    """What sent a request; None each where it does not say. `agent` is one of several that work in a session, and
    `parent_agent` the one that began it."""

    session: str | None = None
    agent: str | None = None
    parent_agent: str | None = None
    tool: str | None = None
    tool_version: str | None = None

    def output_setting(self, field: str | None) -> str | None:
        """Return by what the output is limited: the field of the request, and the setting of a tool whose user never
        sees that."""
        setting = OUTPUT_SETTINGS.get(self.tool or "")
        return field if field is None or setting is None else f"{field} ({setting})"


NOBODY: Final = Sender()


class Senders:
    """Reads what sent a request. `session_headers` are names of headers, the first that is there counts."""

    def __init__(self, session_headers: Iterable[str]) -> None:
        self._sessions = (SESSION, *map(istr, session_headers))

    def of(self, headers: MultiMapping[str], session_in_body: str | None) -> Sender:
        """Return what sent a request with these headers."""
        session = None if session_in_body is None else _name(session_in_body)
        for name in self._sessions:
            if (given := headers.get(name)) is not None and (read := _name(given)) is not None:
                session = read
                break
        user_agent, originator = headers.get(USER_AGENT), headers.get(ORIGINATOR)
        tool, version = (None, None)
        if user_agent is not None or originator is not None:
            tool, version = tool_of((user_agent or "")[:MOST_AGENT_BYTES], (originator or "")[:MOST_AGENT_BYTES])
        if session is None and tool is None:
            return NOBODY
        if (agent := headers.get(AGENT)) is None:
            return Sender(session, None, None, tool, version)
        return Sender(session, _name(agent), _name(headers.get(PARENT_AGENT, "")), tool, version)


def _name(given: str) -> str | None:
    """Return a name that a client has given, None for one that is not printable ASCII."""
    name = given[:MOST_CHARACTERS].strip()
    return name if name and name.isascii() and name.isprintable() else None


@lru_cache(maxsize=KEPT)
def tool_of(user_agent: str, originator: str) -> tuple[str | None, str | None]:
    """Return the tool and its version by `User-Agent`, and by Codex's `originator`; None each where it is not known."""
    product, _, rest = user_agent.partition(" ")
    name, *further = product.split("/")
    name = name.lower()
    version = further[0] if further else ""
    if version.lower() in _LANGUAGES:  # OpenAI/Python 2.20.0
        name, version = f"{name}/{version.lower()}", rest.partition(" ")[0]
    elif name == "ai-sdk":  # ai-sdk/openai-compatible/3.0.37
        version = further[-1] if further else ""
    name = next((family for family in FAMILIES if name.startswith(family)), name)
    if originator.lower().startswith("codex"):
        name = "codex"
    tool, found = TOOLS.get(name), _VERSION.fullmatch(version)
    return tool, None if tool is None or found is None else found[1]
