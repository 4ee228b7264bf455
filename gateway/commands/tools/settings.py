"""What each tool is told, and where its files are, as its own documentation says."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.config.secret import Secret

NAME: Final = "metergate"
TITLE: Final = "Metergate"
# The model of tools that have to be told one, where none is named.
MODEL: Final = "gpt-5.1"
# Holds the key, in the environment of this command and of tools that read it from there.
KEY_VARIABLE: Final = "METERGATE_API_KEY"


@dataclass(frozen=True, slots=True)
class Named:
    """The item of a list whose `field` is `value`; added where there is none."""

    field: str
    value: str


ValuePath = tuple[str | Named, ...]
Values = Mapping[ValuePath, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What a tool is pointed at: a gateway, the key and the file that it is in, and models, the first one preferred."""

    url: str
    key: Secret
    key_file: Path
    models: tuple[str, ...]

    @property
    def v1(self) -> str:
        """The base URL of tools that add no version themselves."""
        return f"{self.url}/v1"

    @property
    def named_models(self) -> tuple[str, ...]:
        """The models of a tool that must be told which there are."""
        return self.models or (MODEL,)


@dataclass(frozen=True, slots=True)
class FileValues:
    """Values of one file. One that holds the key is readable by its owner alone."""

    path: Path
    form: str
    values: Values = field(repr=False)
    holds_key: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user's files are: the home folder, and the environment, which may name others."""

    home: Path
    environ: Mapping[str, str]

    def folder(self, variable: str, *default: str) -> Path:
        """Return the folder that a variable names, else one below the home folder."""
        given = self.environ.get(variable)
        return Path(given) if given else self.home.joinpath(*default)

    @property
    def config(self) -> Path:
        """The folder of settings by the XDG specification."""
        return self.folder("XDG_CONFIG_HOME", ".config")

    def app(self, name: str) -> Path:
        """Return the folder of an application's settings, where the libraries click and platformdirs have it."""
        return self.home / "Library" / "Application Support" / name if sys.platform == "darwin" else self.config / name


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: how it is called, its settings, and what is left to its user."""

    name: str
    title: str
    files: Callable[[Place, Target], list[FileValues]]
    start: str
    """A command that uses the settings."""
    note: str = ""
    """What its user may have to set, by the plan."""


def _claude_code(place: Place, target: Target) -> list[FileValues]:
    values: dict[ValuePath, object] = {
        ("apiKeyHelper",): shlex.join(["cat", str(target.key_file)]),
        ("env", "ANTHROPIC_BASE_URL"): target.url,
    }
    if target.models:
        values["model",] = target.models[0]
    return [FileValues(place.folder("CLAUDE_CONFIG_DIR", ".claude") / "settings.json", "json", values)]


def _codex(place: Place, target: Target) -> list[FileValues]:
    provider = {
        "name": TITLE,
        "base_url": target.v1,
        "wire_api": "responses",
        "auth": {"command": "cat", "args": [str(target.key_file)]},
    }
    values: dict[ValuePath, object] = {("model_provider",): NAME}
    if target.models:
        values["model",] = target.models[0]
    values["model_providers", NAME] = provider
    return [FileValues(place.folder("CODEX_HOME", ".codex") / "config.toml", "toml", values)]


def _gemini(place: Place, target: Target) -> list[FileValues]:
    folder = place.home / ".gemini"
    settings: dict[ValuePath, object] = {("security", "auth", "selectedType"): "gemini-api-key"}
    if target.models:
        settings["model", "name"] = target.models[0]
    variables: dict[ValuePath, object] = {
        ("GOOGLE_GEMINI_BASE_URL",): target.url,
        ("GEMINI_API_KEY",): target.key.reveal(),
    }
    return [
        FileValues(folder / "settings.json", "json", settings),
        FileValues(folder / ".env", "env", variables, holds_key=True),
    ]


def _opencode(place: Place, target: Target) -> list[FileValues]:
    folder = place.config / "opencode"
    found = [path for name in ("opencode.jsonc", "opencode.json") if (path := folder / name).exists()]
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": TITLE,
        "options": {"baseURL": target.v1, "apiKey": f"{{file:{target.key_file}}}"},
        "models": {model: {"name": model} for model in target.named_models},
    }
    values: dict[ValuePath, object] = {("provider", NAME): provider, ("model",): f"{NAME}/{target.named_models[0]}"}
    return [FileValues(found[0] if found else folder / "opencode.json", "json", values)]


def _aider(place: Place, target: Target) -> list[FileValues]:
    model = f"openai/{target.named_models[0]}"
    values: dict[ValuePath, object] = {
        ("openai-api-base",): target.v1,
        ("openai-api-key",): target.key.reveal(),
        ("model",): model,
        ("weak-model",): f"openai/{target.named_models[-1]}",
    }
    return [FileValues(place.home / ".aider.conf.yml", "yaml", values, holds_key=True)]


def _qwen_code(place: Place, target: Target) -> list[FileValues]:
    folder, variable = place.home / ".qwen", KEY_VARIABLE
    values: dict[ValuePath, object] = {
        ("modelProviders", "openai", Named("id", model)): {
            "id": model,
            "name": f"{model} ({TITLE})",
            "baseUrl": target.v1,
            "envKey": variable,
        }
        for model in target.named_models
    }
    values["security", "auth", "selectedType"] = "openai"
    values["model", "name"] = target.named_models[0]
    return [
        FileValues(folder / "settings.json", "json", values),
        FileValues(folder / ".env", "env", {(variable,): target.key.reveal()}, holds_key=True),
    ]


def _continue(place: Place, target: Target) -> list[FileValues]:
    folder, variable = place.folder("CONTINUE_GLOBAL_DIR", ".continue"), KEY_VARIABLE
    config = folder / "config.yaml"
    values: dict[ValuePath, object] = {}
    if not config.exists():
        values = {("name",): "Local", ("version",): "1.0.0", ("schema",): "v1"}
    for model in target.named_models:
        name = f"{model} ({TITLE})"
        values["models", Named("name", name)] = {
            "name": name,
            "provider": "openai",
            "model": model,
            "apiBase": target.v1,
            "apiKey": f"${{{{ secrets.{variable} }}}}",
            "roles": ["chat", "edit", "apply"],
        }
    return [
        FileValues(config, "yaml", values),
        FileValues(folder / ".env", "env", {(variable,): target.key.reveal()}, holds_key=True),
    ]


def _cline(place: Place, target: Target) -> list[FileValues]:
    provider = "openai-compatible"
    settings = {
        "provider": provider,
        "apiKey": target.key.reveal(),
        "model": target.named_models[0],
        "baseUrl": target.v1,
    }
    entry = {"settings": settings, "updatedAt": "1970-01-01T00:00:00.000Z", "tokenSource": "manual"}
    values: dict[ValuePath, object] = {("version",): 1, ("lastUsedProvider",): provider, ("providers", provider): entry}
    folder = place.folder("CLINE_DIR", ".cline")
    return [FileValues(folder / "data" / "settings" / "providers.json", "json", values, holds_key=True)]


def _pi(place: Place, target: Target) -> list[FileValues]:
    folder = place.folder("PI_CODING_AGENT_DIR", ".pi", "agent")
    provider = {
        "baseUrl": target.v1,
        "api": "openai-completions",
        "apiKey": "!" + shlex.join(["cat", str(target.key_file)]),
        "models": [{"id": model} for model in target.named_models],
    }
    chosen: dict[ValuePath, object] = {("defaultProvider",): NAME, ("defaultModel",): target.named_models[0]}
    return [
        FileValues(folder / "models.json", "json", {("providers", NAME): provider}),
        FileValues(folder / "settings.json", "json", chosen),
    ]


def _llm(place: Place, target: Target) -> list[FileValues]:
    folder = place.folder("LLM_USER_PATH") if "LLM_USER_PATH" in place.environ else place.app("io.datasette.llm")
    values: dict[ValuePath, object] = {
        (Named("model_id", f"{NAME}/{model}"),): {
            "model_id": f"{NAME}/{model}",
            "model_name": model,
            "api_base": target.v1,
            "api_key_name": NAME,
            "supports_tools": True,
        }
        for model in target.named_models
    }
    return [
        FileValues(folder / "extra-openai-models.yaml", "yaml", values),
        FileValues(folder / "keys.json", "json", {(NAME,): target.key.reveal()}, holds_key=True),
    ]


def _mini(place: Place, target: Target) -> list[FileValues]:
    folder = place.environ.get("MSWEA_GLOBAL_CONFIG_DIR")
    values: dict[ValuePath, object] = {
        ("OPENAI_API_BASE",): target.v1,
        ("OPENAI_API_KEY",): target.key.reveal(),
        ("MSWEA_MODEL_NAME",): f"openai/{target.named_models[0]}",
        ("MSWEA_CONFIGURED",): "true",
    }
    path = (Path(folder) if folder else place.app("mini-swe-agent")) / ".env"
    return [FileValues(path, "env", values, holds_key=True)]


ASKS_MUCH: Final = (
    "It asks for up to 128,000 tokens of output. On a plan with a small quota, such as 200,000 tokens a day, set "
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS=32000 in its environment, or in `env` of its settings."
)

TOOLS: Final = {
    tool.name: tool
    for tool in (
        Tool("claude-code", "Claude Code", _claude_code, "claude", ASKS_MUCH),
        Tool("codex", "Codex CLI", _codex, "codex"),
        Tool("gemini", "Gemini CLI", _gemini, "gemini"),
        Tool("opencode", "OpenCode", _opencode, "opencode"),
        Tool("aider", "aider", _aider, "aider"),
        Tool("qwen-code", "Qwen Code", _qwen_code, "qwen"),
        Tool("continue", "Continue CLI", _continue, "cn"),
        Tool("cline", "Cline CLI", _cline, "cline"),
        Tool("pi", "pi", _pi, "pi"),
        Tool("llm", "llm", _llm, f"llm -m {NAME}/{MODEL}"),
        Tool("mini-swe-agent", "mini-swe-agent", _mini, "mini"),
    )
}
