"""`docker-compose.yml` and `Dockerfile`: variables that exist, no default secret, servers as the ledger needs them."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.defaults import Defaults
from gateway.config.environment import SETTINGS_VARIABLES
from gateway.config.settings import COMPOSE_GROUP
from gateway.embedded.process import valkey_server
from gateway.process.supervisor import KILL_MARGIN_S
from tests.support.programs import judge

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
ALL_SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVICES = {name: service for name, service in ALL_SERVICES.items() if "profiles" not in service}
CADDY = ALL_SERVICES["caddy"]
# The shipped files, or a copy of one's own.
CONFIG = "${METERGATE_CONFIG_FOLDER:-./config}"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def test_every_variable_is_a_setting_or_the_files_own():
    used = set(re.findall(r"\$\{([A-Za-z_0-9]+)", TEXT))
    own = {variable.name for variable in COMPOSE_GROUP.variables}
    assert used <= set(SETTINGS_VARIABLES) | own
    assert own <= used


def test_what_is_set_for_the_gateway_is_a_setting():
    for name in ("gateway", "migrate"):
        assert set(SERVICES[name]["environment"]) <= set(SETTINGS_VARIABLES)


def test_no_secret_has_a_default():
    for name in ("ADMIN_API_KEY", "POSTGRES_PASSWORD", "VALKEY_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", TEXT)
        assert uses
        assert all(use.startswith(f"${{{name}:?") for use in uses)


def test_the_gateway_waits_for_its_servers():
    assert SERVICES["gateway"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "valkey": {"condition": "service_healthy"},
    }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all("healthcheck" in SERVICES[name] for name in ("postgres", "valkey"))
    assert "HEALTHCHECK" in DOCKERFILE


def test_only_the_gateway_is_published():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gateway"]["ports"])


def test_services_come_back_and_keep_their_data():
    for name in ("gateway", "postgres", "valkey"):
        assert SERVICES[name]["restart"] == "unless-stopped"
    named = {volume.rsplit(":/", 1)[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert named - {CONFIG} == {name for name in COMPOSE["volumes"] if not name.startswith(("lago", "caddy"))}
    assert {volume.split(":")[0] for volume in CADDY["volumes"] if volume[0] != "."} == {"caddy-data", "caddy-config"}


def test_lago_starts_by_its_profile_alone_in_pinned_versions_and_keeps_its_secrets_elsewhere():
    lago = {name: service for name, service in ALL_SERVICES.items() if name not in {*SERVICES, "caddy"}}
    assert all(name.startswith("lago-") and service["profiles"] == ["lago"] for name, service in lago.items())
    assert all(re.search(r":v?[0-9]+[\w.-]*$", service["image"]) for service in lago.values())
    published = [port for service in lago.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:3000:3000", "127.0.0.1:3001:80"]
    environments = str([service.get("environment") for service in lago.values()])
    assert not re.search("KEY|PASSWORD|SECRET", environments)
    assert "lago.env" in (ROOT / ".gitignore").read_text("utf-8").split()
    assert COMPOSE["networks"]["lago"]["internal"] is True
    kept = {volume.split(":")[0] for service in lago.values() for volume in service.get("volumes", ())}
    assert kept | {"gateway", "postgres", "valkey", "caddy-data", "caddy-config"} == set(COMPOSE["volumes"])


def test_tls_is_a_profile_whose_caddy_has_the_tested_file_and_no_more_rights_than_it_needs():
    assert CADDY["profiles"] == ["tls"]
    assert CADDY["volumes"][0] == "./deploy/caddy/Caddyfile:/etc/caddy/Caddyfile:ro"
    assert (ROOT / "deploy" / "caddy" / "Caddyfile").is_file()
    assert (CADDY["cap_drop"], CADDY["cap_add"], CADDY["read_only"]) == (["ALL"], ["NET_BIND_SERVICE"], True)
    assert CADDY["environment"]["METERGATE_UPSTREAM"] == "gateway:8080"
    assert (CADDY["networks"], CADDY["ports"]) == (["default"], ["80:80", "443:443"])
    trusted = SERVICES["gateway"]["environment"]["TRUSTED_PROXIES"]
    assert trusted.startswith("${TRUSTED_PROXIES:-")


def test_a_stop_waits_as_long_as_answers_and_their_debits_take():
    defaults = Defaults()
    takes_s = defaults.process.shutdown_grace_s + defaults.stores.postgres_timeout_s + KILL_MARGIN_S
    for service in (SERVICES["gateway"], CADDY):
        assert int(service["stop_grace_period"].removesuffix("s")) > takes_s


def test_a_configuration_of_ones_own_is_where_no_update_writes():
    assert SERVICES["gateway"]["volumes"][0] == SERVICES["migrate"]["volumes"][0] == f"{CONFIG}:/app/config:ro"
    assert "etc/" in (ROOT / ".gitignore").read_text("utf-8").split()


def valkey_settings() -> dict[str, str]:
    content = COMPOSE["configs"]["valkey"]["content"]
    return dict(line.split(" ", 1) for line in content.splitlines())


def test_valkey_keeps_every_change_and_evicts_nothing():
    settings = valkey_settings()
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert SERVICES["valkey"]["command"] == ["valkey-server", SERVICES["valkey"]["configs"][0]["target"]]


def test_no_container_has_more_rights_than_it_needs():
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
    assert (SERVICES["postgres"]["user"], SERVICES["valkey"]["user"]) == ("postgres", "valkey")


def test_the_stores_want_a_password_and_are_reached_by_the_gateway_alone():
    postgres = SERVICES["postgres"]["environment"]
    assert postgres["POSTGRES_HOST_AUTH_METHOD"] == "scram-sha-256"
    assert "--auth-local=scram-sha-256" in postgres["POSTGRES_INITDB_ARGS"]
    assert valkey_settings()["requirepass"].startswith("${VALKEY_PASSWORD:?")
    assert SERVICES["gateway"]["environment"]["REDIS_URL"].startswith("redis://:${VALKEY_PASSWORD:?")
    assert COMPOSE["networks"]["stores"]["internal"] is True
    for name in ("postgres", "valkey", "migrate"):
        assert SERVICES[name]["networks"] == ["stores"]
    for service in SERVICES.values():
        commands = [*service["command"], *service.get("healthcheck", {}).get("test", ())]
        assert not any("PASSWORD" in word for word in commands)


def test_metrics_are_published_on_this_machine_alone():
    assert SERVICES["gateway"]["environment"]["METRICS_ADDR"] == "0.0.0.0:9090"
    assert [port for port in SERVICES["gateway"]["ports"] if "9090" in port] == ["127.0.0.1:9464:9090"]


def test_every_image_can_be_pinned_by_its_digest():
    for name, variable in (("postgres", "POSTGRES_IMAGE"), ("valkey", "VALKEY_IMAGE"), ("caddy", "CADDY_IMAGE")):
        assert ALL_SERVICES[name]["image"].startswith(f"${{{variable}:-")
    assert SERVICES["gateway"]["build"]["args"]["PYTHON_IMAGE"].startswith("${PYTHON_IMAGE:-")
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    defaults = {
        variable.name: variable.default for variable in COMPOSE_GROUP.variables if variable.name[-5:] == "IMAGE"
    }
    assert all(f"${{{name}:-{default}}}" in TEXT for name, default in defaults.items())


async def test_valkey_starts_with_what_the_file_says_and_asks_for_the_password(tmp_path):
    """The embedded server's program with the compose file's configuration; only folder and port are this test's."""
    settings = {**valkey_settings(), "dir": str(tmp_path), "requirepass": "swordfish"}
    address = {"port": "0", "unixsocket": str(tmp_path / "redis.sock")}
    conf = tmp_path / "valkey.conf"
    conf.write_text("".join(f"{name} {value}\n" for name, value in {**settings, **address}.items()))
    process = await asyncio.create_subprocess_exec(str(valkey_server()), str(conf), stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while not (tmp_path / "redis.sock").exists():
                await asyncio.sleep(0.02)
        for password, told in (("", "NOAUTH"), ("wrong", "WRONGPASS"), ("swordfish", "")):
            reply = await pinged(tmp_path / "redis.sock", password)
            assert reply == "PONG" if not told else told in reply
    finally:
        process.kill()
        await process.wait()


async def pinged(socket: Path, password: str) -> str:
    """Return a server's replies to AUTH, where there is a password, and to PING."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    if password:
        writer.write(f"AUTH {password}\r\n".encode())
        reply = (await reader.readline()).decode().strip()
        if reply != "+OK":
            return reply
    writer.write(b"PING\r\n")
    reply = (await reader.readline()).decode().strip()
    writer.close()
    return reply.removeprefix("+")


def test_the_image_is_locked_and_runs_as_nobody_special():
    assert "--require-hashes -r requirements/runtime.lock" in DOCKERFILE
    assert "--no-deps --no-build-isolation ." in DOCKERFILE
    # What backups to a bucket need, which its pods write.
    assert "\nobstore==" in (ROOT / "requirements" / "runtime.lock").read_text("utf-8")
    assert DOCKERFILE.index("USER metergate") < DOCKERFILE.index('CMD ["metergate", "serve"]')
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        assert all(f"!{name}" in kept or f"!{name.partition('/')[0]}" in kept for name in source.split())


def test_compose_itself_accepts_the_file():
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose is not installed here")
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "ADMIN_API_KEY": "k" * 24, "POSTGRES_PASSWORD": "password"}
    environ["VALKEY_PASSWORD"] = "password"
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


def test_the_file_is_one_by_the_specification_of_compose():
    command = [judge("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def compose_command() -> list[str] | None:
    """How Docker Compose is called on this machine, or None."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") is None:
        return None
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60, check=False)
    return ["docker", "compose"] if version.returncode == 0 else None
