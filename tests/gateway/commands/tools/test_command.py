"""`metergate connect` for each tool: what is written, shown, kept and restored."""

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands.tools.settings import TOOLS
from tests.support.commands import CHECKOUT, Result, Shell

KEY = "mg_0123456789abcdefghijABCDEFGHIJ01"
OTHER_SECRET = "sk-somebody-elses"
URL = "https://gateway.example.com"
# What each tool's user has had there before.
HAD = {
    "claude-code": {".claude/settings.json": '{\n  "permissions": {"allow": ["Bash"]},\n  "env": {"FOO": "1"}\n}\n'},
    "codex": {".codex/config.toml": '# mine\nmodel = "o3"\n\n[features]\nunified_exec = true # kept\n'},
    "gemini": {
        ".gemini/settings.json": '{\n  // mine\n  "ui": {"theme": "GitHub"},\n}\n',
        ".gemini/.env": f"# mine\nOTHER_KEY={OTHER_SECRET}\n",
    },
    "opencode": {".config/opencode/opencode.jsonc": '{\n  // mine\n  "theme": "nord"\n}\n'},
    "aider": {".aider.conf.yml": f"# mine\ndark-mode: true\nanthropic-api-key: {OTHER_SECRET}\n"},
    "qwen-code": {".qwen/settings.json": '{"ui": {"theme": "GitHub"}}', ".qwen/.env": f"X_KEY={OTHER_SECRET}\n"},
    "continue": {".continue/config.yaml": "name: Mine\nversion: 0.0.1\nmodels:\n  # mine\n  - name: x\n    model: y\n"},
    "cline": {
        ".cline/data/settings/providers.json": json.dumps(
            {"version": 1, "providers": {"anthropic": {"settings": {"apiKey": OTHER_SECRET}}}}, indent=2
        )
    },
    "pi": {".pi/agent/settings.json": '{"theme": "dark"}\n'},
    "llm": {
        ".config/io.datasette.llm/keys.json": json.dumps({"// Note": "mine", "openai": OTHER_SECRET}, indent=2),
        ".config/io.datasette.llm/extra-openai-models.yaml": "# mine\n- model_id: x\n  model_name: y\n",
    },
    "mini-swe-agent": {".config/mini-swe-agent/.env": f"ANTHROPIC_API_KEY='{OTHER_SECRET}'\n"},
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Commands of a user whose home folder is this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "key").write_text(f"{KEY}\n")
    return Shell(tmp_path, {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")})


def furnish(shell: Shell, tool: str) -> dict[Path, str]:
    files = {shell.folder / "home" / name: text for name, text in HAD[tool].items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640)
    return files


def connect(shell: Shell, tool: str, *options: str) -> Result:
    return shell.run("connect", tool, "--api-url", URL, "--key-file", str(shell.folder / "key"), *options)


def kept(shell: Shell) -> dict[str, tuple[bytes, int]]:
    """Every file of the home folder but the command's own, with its mode."""
    home = shell.folder / "home"
    return {
        str(path.relative_to(home)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in sorted(home.rglob("*"))
        if path.is_file() and ".config/metergate" not in str(path)
    }


@pytest.mark.parametrize("furnished", [False, True], ids=["nothing there", "settings there"])
@pytest.mark.parametrize("tool", TOOLS)
def test_settings_are_written_once_and_restored_byte_by_byte(shell, tool, furnished):
    had = furnish(shell, tool) if furnished else {}
    before = kept(shell)
    shown = connect(shell, tool, "--dry-run")
    assert (shown.code, kept(shell)) == (0, before), shown
    done = connect(shell, tool)
    assert done.code == 0, done
    for each in (shown, done):
        assert KEY not in each.stdout + each.stderr
        assert OTHER_SECRET not in each.stdout + each.stderr
        assert "gateway.example.com" in each.stdout
    after = kept(shell)
    assert after != before
    for path, text in had.items():
        assert all(line.strip(' ,"{}') in path.read_text() for line in text.splitlines() if "mine" in line), path
    for name, (content, mode) in after.items():
        assert mode == 0o600 if KEY.encode() in content else True, name
    assert "already" in connect(shell, tool).stdout
    assert kept(shell) == after
    assert shell.run("connect", tool, "--undo").code == 0
    assert kept(shell) == before
    assert "nothing to undo" in shell.run("connect", tool, "--undo").failed(1)


def read(shell: Shell, name: str) -> Any:
    text = (shell.folder / "home" / name).read_text()
    readers = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load, "yml": yaml.safe_load}
    return readers.get(name.rpartition(".")[2], lambda text: dict(line.split("=", 1) for line in text.split()))(text)


def test_tools_refer_to_the_file_of_the_key_where_they_can(shell):
    for tool in ("claude-code", "codex", "opencode", "pi"):
        assert connect(shell, tool, "--model", "m-1").code == 0
    key_file = str(shell.folder / "key")
    assert read(shell, ".claude/settings.json") == {
        "apiKeyHelper": f"cat {key_file}",
        "env": {"ANTHROPIC_BASE_URL": URL},
        "model": "m-1",
    }
    codex = read(shell, ".codex/config.toml")
    assert (codex["model_provider"], codex["model"]) == ("metergate", "m-1")
    assert codex["model_providers"]["metergate"] == {
        "name": "Metergate",
        "base_url": f"{URL}/v1",
        "wire_api": "responses",
        "auth": {"command": "cat", "args": [key_file]},
    }
    options = read(shell, ".config/opencode/opencode.json")["provider"]["metergate"]["options"]
    assert options == {"baseURL": f"{URL}/v1", "apiKey": f"{{file:{key_file}}}"}
    assert read(shell, ".pi/agent/models.json")["providers"]["metergate"]["apiKey"] == f"!cat {key_file}"
    assert not any(KEY.encode() in content for content, _ in kept(shell).values())


def test_a_key_of_the_environment_is_kept_in_a_file_of_its_own(shell):
    done = shell.run("connect", "claude-code", env={"METERGATE_API_KEY": KEY})
    assert done.code == 0, done
    file = shell.folder / "home" / ".config" / "metergate" / "api-key"
    assert (file.read_text().strip(), stat.S_IMODE(file.stat().st_mode)) == (KEY, 0o600)
    assert read(shell, ".claude/settings.json")["env"] == {"ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"}
    assert shell.run("connect", "codex").code == 0  # the next tool finds it there


def test_the_key_that_up_has_made_is_found(shell):
    shell.data_dir.mkdir()
    (shell.data_dir / "first-key").write_text(f"{KEY}\n")
    assert shell.run("connect", "gemini", "--api-url", f"{URL}/v1/").code == 0
    variables = read(shell, ".gemini/.env")
    assert variables == {"GOOGLE_GEMINI_BASE_URL": URL, "GEMINI_API_KEY": KEY}


def test_several_models_are_offered(shell):
    assert connect(shell, "continue", "--model", "a", "--model", "b").code == 0
    assert [each["model"] for each in read(shell, ".continue/config.yaml")["models"]] == ["a", "b"]
    assert connect(shell, "qwen-code", "--model", "a", "--model", "b").code == 0
    settings = read(shell, ".qwen/settings.json")
    assert [each["id"] for each in settings["modelProviders"]["openai"]] == ["a", "b"]
    assert settings["model"] == {"name": "a"}


def test_a_file_that_cannot_be_changed_safely_is_told_what_to_add(shell):
    broken = shell.folder / "home" / ".gemini" / "settings.json"
    broken.parent.mkdir()
    broken.write_text('{"ui": ')
    before = kept(shell)
    done = connect(shell, "gemini")
    assert done.code == 1
    assert "Add this to it" in done.stdout
    assert "gemini-api-key" in done.stdout
    assert KEY not in done.stdout
    assert kept(shell) == before


def test_what_somebody_has_changed_since_is_not_undone(shell):
    furnish(shell, "gemini")
    assert connect(shell, "gemini").code == 0
    settings = shell.folder / "home" / ".gemini" / "settings.json"
    settings.write_text("{}")
    undone = shell.run("connect", "gemini", "--undo")
    assert undone.code == 1
    assert "has changed since" in undone.stdout
    assert settings.read_text() == "{}"
    assert KEY not in (shell.folder / "home" / ".gemini" / ".env").read_text()


def test_undo_after_several_changes_restores_what_was_there_first(shell):
    (path,) = furnish(shell, "claude-code")
    before = path.read_bytes()
    assert connect(shell, "claude-code").code == 0
    assert connect(shell, "claude-code", "--model", "other").code == 0
    assert shell.run("connect", "claude-code", "--undo").code == 0
    assert path.read_bytes() == before


def test_what_is_wrong_is_told(shell):
    assert "no tool 'emacs'" in connect(shell, "emacs").failed(2)
    assert "METERGATE_API_KEY" in shell.run("connect", "codex").failed(2)
    assert "no address" in connect(shell, "codex", "--api-url", "example.com").failed(2)
    assert "holds no key" in shell.run("connect", "codex", "--key-file", "/dev/null").failed(2)
    assert kept(shell) == {}


def test_links_stay_links(shell):
    (path,) = furnish(shell, "claude-code")
    real = shell.folder / "dotfiles.json"
    path.rename(real)
    path.symlink_to(real)
    assert connect(shell, "claude-code").code == 0
    assert path.is_symlink()
    assert URL in real.read_text()


@pytest.mark.parametrize("tool", sorted(TOOLS.keys() - {"cline"}))
def test_the_documentation_shows_what_is_written(shell, tool):
    page = (CHECKOUT / "docs" / "agents.md").read_text("utf-8")
    assert f"metergate connect {tool}" in page
    key_file = str(shell.folder / "home" / ".config" / "metergate" / "api-key")
    assert shell.run("connect", tool, env={"METERGATE_API_KEY": KEY}).code == 0
    files = {name: content.decode() for name, (content, _) in kept(shell).items()}
    for name, text in files.items():
        if name.endswith(("keys.json", ".pi/agent/settings.json", ".qwen/.env", ".continue/.env")):
            continue  # told in a sentence
        shown = text.replace(key_file, "/home/ada/.config/metergate/api-key").replace(KEY, "mg_...")
        assert f"\n{shown.strip()}\n```" in page, (name, shown)
