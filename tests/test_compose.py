"""`docker-compose.yml` and `Dockerfile`: variables that exist, no default secret, servers as the ledger needs them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.variables import COMPOSE_GROUP, SETTINGS_VARIABLES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def test_every_variable_is_a_setting_or_the_files_own() -> None:
    used = set(re.findall(r"\$\{([A-Za-z_0-9]+)", TEXT))
    own = {variable.name for variable in COMPOSE_GROUP.variables}
    assert used <= set(SETTINGS_VARIABLES) | own
    assert own <= used


def test_what_is_set_for_the_gateway_is_a_setting() -> None:
    for name in ("gateway", "migrate"):
        assert set(SERVICES[name]["environment"]) <= set(SETTINGS_VARIABLES)


def test_no_secret_has_a_default() -> None:
    for name in ("ADMIN_API_KEY", "POSTGRES_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", TEXT)
        assert uses
        assert all(use.startswith(f"${{{name}:?") for use in uses)


def test_the_gateway_waits_for_its_servers() -> None:
    assert SERVICES["gateway"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "valkey": {"condition": "service_healthy"},
    }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all("healthcheck" in SERVICES[name] for name in ("postgres", "valkey"))
    assert "HEALTHCHECK" in DOCKERFILE


def test_only_the_gateway_is_published() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]


def test_services_come_back_and_keep_their_data() -> None:
    for name in ("gateway", "postgres", "valkey"):
        assert SERVICES[name]["restart"] == "unless-stopped"
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert named - {"./config"} == set(COMPOSE["volumes"])


def test_valkey_keeps_every_change_and_evicts_nothing() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_the_image_is_locked_and_runs_as_nobody_special() -> None:
    assert "--require-hashes -r requirements/runtime.lock" in DOCKERFILE
    assert "--no-deps --no-build-isolation ." in DOCKERFILE
    assert DOCKERFILE.index("USER metergate") < DOCKERFILE.index('CMD ["metergate", "serve"]')
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        assert all(f"!{name}" in kept for name in source.split())


def test_compose_itself_accepts_the_file() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose is not installed here")
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "ADMIN_API_KEY": "k" * 24, "POSTGRES_PASSWORD": "password"}
    run = subprocess.run(
        [*command, "-f", "docker-compose.yml", "config", "--quiet"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def compose_command() -> list[str] | None:
    """How Docker Compose is called on this machine, or None."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") is None:
        return None
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60, check=False)
    return ["docker", "compose"] if version.returncode == 0 else None
