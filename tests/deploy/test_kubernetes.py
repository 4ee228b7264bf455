"""`deploy/kubernetes`: rendered by kustomize, valid by Kubernetes' own schemas, and right about the gateway."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.defaults import Defaults
from gateway.config.environment import SETTINGS_VARIABLES
from gateway.config.settings import FILE_GROUP, load_settings
from gateway.config.source import SHIPPED_FOLDER
from gateway.embedded.process import valkey_server
from gateway.process.supervisor import KILL_MARGIN_S
from tests.support.commands import CHECKOUT
from tests.support.programs import judge
from tests.test_compose import COMPOSE, pinged, valkey_settings

FOLDER = CHECKOUT / "deploy" / "kubernetes"
OVERLAYS = ("one-node", "production")
# Of other programs: Kubernetes has no schema of them.
OWN_KINDS = {"ServiceMonitor"}
SECRETS = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD"}
OLDEST_KUSTOMIZE = (5, 0)
# The oldest release that these files are for: sleeping before a stop is new in 1.30.
KUBERNETES = "1.30"
Manifest = dict[str, Any]


def kustomize() -> list[str] | None:
    """The command that renders; None where there is none that knows the format of these files."""
    if found := shutil.which("kustomize"):
        return [found, "build"]
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    told = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, check=False, timeout=60)
    version = json.loads(told.stdout or b"{}").get("kustomizeVersion", "v0.0.0")
    known = tuple(map(int, version.lstrip("v").split(".")[:2])) >= OLDEST_KUSTOMIZE
    return [kubectl, "kustomize"] if known else None


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The manifests of each overlay, with secrets by its own example."""
    command, found = kustomize(), {}
    if command is None:
        pytest.skip("neither kustomize nor a kubectl that has kustomize 5 is installed")
    folder = tmp_path_factory.mktemp("rendered") / "kubernetes"
    shutil.copytree(FOLDER, folder)
    for overlay in OVERLAYS:
        for example in (folder / "overlays" / overlay).glob("*.env.example"):
            example.rename(example.with_suffix(""))
        where = str(folder / "overlays" / overlay)
        ran = subprocess.run([*command, where], capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 0, ran.stderr
        found[overlay] = ran.stdout
    return found


def manifests(text: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text) if each]


def named(found: list[Manifest], kind: str, name: str = "metergate") -> Manifest:
    (one,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"].startswith(name))
    return one


def templates(found: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The pods that manifests describe."""
    for each in found:
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield f"{each['kind']} {each['metadata']['name']}", spec["template"]


def validate(folder: Path, found: list[Manifest]) -> None:
    """Have kubernetes-validate judge manifests, strictly."""
    files = []
    for number, each in enumerate(found):
        if each["kind"] not in OWN_KINDS:
            files.append(folder / f"{number}.yaml")
            files[-1].write_text(yaml.safe_dump(each))
    command = [judge("kubernetes-validate"), "--strict", "-k", KUBERNETES, *map(str, files)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_what_is_rendered_is_valid(rendered, tmp_path):
    found = [each for overlay in OVERLAYS for each in manifests(rendered[overlay])]
    assert len(found) > 20
    validate(tmp_path, found)


def test_what_is_to_be_rendered_is_there_and_valid(tmp_path):
    """Where there is no kustomize, too: files that are named exist, and each manifest that stands in them is valid."""
    found = []
    for file in FOLDER.rglob("kustomization.yaml"):
        asked = yaml.safe_load(file.read_text())
        for name in asked["resources"]:
            there = file.parent / name
            assert there.exists(), there
            found += manifests(there.read_text()) if there.is_file() else []
        for made in (*asked.get("configMapGenerator", ()), *asked.get("secretGenerator", ())):
            for name in (*made.get("files", ()), *(f"{name}.example" for name in made.get("envs", ()))):
                assert (file.parent / name).is_file(), name
        for patch in asked.get("patches", ()):
            assert "patch" in patch or (file.parent / patch["path"]).is_file()
    assert len(found) > 12
    if kustomize() is None:
        validate(tmp_path, found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gateways_get_settings_that_are_there_and_secrets_as_secrets_alone(overlay, rendered):
    found = manifests(rendered[overlay])
    settings, secrets = named(found, "ConfigMap", "metergate-settings"), named(found, "Secret", "metergate-secrets")
    assert settings["data"].keys() <= SETTINGS_VARIABLES.keys()
    providers = {variable.name for variable in FILE_GROUP.variables}
    assert secrets["data"].keys() - SECRETS - providers <= SETTINGS_VARIABLES.keys()
    assert {"ADMIN_API_KEY", "DATABASE_URL", "REDIS_URL"} <= secrets["data"].keys()
    assert not [name for name in settings["data"] if SETTINGS_VARIABLES[name].secret]
    for pods in (named(found, "Deployment"), named(found, "Job")):
        (container,) = pods["spec"]["template"]["spec"]["containers"]
        sources = [next(iter(each.values()))["name"] for each in container["envFrom"]]
        assert sources == [settings["metadata"]["name"], secrets["metadata"]["name"]]
        assert pods["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_more_rights_than_it_needs(overlay, rendered):
    pods = dict(templates(manifests(rendered[overlay])))
    assert {"Deployment metergate", "Job metergate-migrate"} <= pods.keys()
    for name, pod in pods.items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["spec"]["containers"]:
            allowed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
            assert container["securityContext"] == {**allowed, "capabilities": {"drop": ["ALL"]}}, name
            assert "memory" in container["resources"]["limits"], name
    assert named(manifests(rendered[overlay]), "Namespace")["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gateways_are_found_probed_and_waited_for(overlay, rendered):
    found = manifests(rendered[overlay])
    deployment, service = named(found, "Deployment"), named(found, "Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector.items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = named(found, "ConfigMap", "metergate-settings")["data"]
    assert {"http": settings["LISTEN_ADDR"], "metrics": settings["METRICS_ADDR"]} == {
        name: f"0.0.0.0:{port}" for name, port in ports.items()
    }
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports.keys()
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    defaults = Defaults()
    takes_s = defaults.process.shutdown_grace_s + defaults.stores.postgres_timeout_s + KILL_MARGIN_S
    takes_s += container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > takes_s
    policy = named(found, "NetworkPolicy")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == ports.keys()


def test_in_production_it_scales_is_watched_and_survives_the_loss_of_a_node(rendered):
    found = manifests(rendered["production"])
    labels = named(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    scaler, budget = named(found, "HorizontalPodAutoscaler"), named(found, "PodDisruptionBudget")
    assert scaler["spec"]["minReplicas"] == named(found, "Deployment")["spec"]["replicas"] == 3
    metrics = [each.get("resource", each.get("pods", {}).get("metric"))["name"] for each in scaler["spec"]["metrics"]]
    assert metrics == ["cpu", "metergate_holds_live"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service, monitor = named(found, "Service"), named(found, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    (rule,) = named(found, "Ingress")["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "metergate", "port": {"name": "http"}}


def test_in_production_the_backup_gets_its_bucket_the_database_and_nothing_else(rendered):
    found = manifests(rendered["production"])
    pod = named(found, "CronJob", "metergate-backup")["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    bucket, stores = named(found, "Secret", "metergate-backup"), named(found, "Secret", "metergate-secrets")
    assert container["envFrom"] == [{"secretRef": {"name": bucket["metadata"]["name"]}}]
    variables = {each["name"]: each for each in container["env"]}
    assert variables["DATABASE_URL"]["valueFrom"]["secretKeyRef"]["name"] == stores["metadata"]["name"]
    assert {name for name in stores["data"] if name in variables or name in bucket["data"]} == {"DATABASE_URL"}
    volumes = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert variables["TMPDIR"]["value"] == volumes["scratch"]
    (component,) = {pod["metadata"]["labels"]["app.kubernetes.io/component"]}
    (selected,) = named(found, "NetworkPolicy")["spec"]["podSelector"]["matchExpressions"]
    assert component in selected["values"]


def test_the_configuration_for_production_is_one_that_the_gateway_takes(tmp_path):
    for name in ("plans.yaml", "prices.yaml"):
        shutil.copy(SHIPPED_FOLDER / name, tmp_path)
    shutil.copy(FOLDER / "overlays" / "production" / "metergate.yaml", tmp_path)
    keys = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "ADMIN_API_KEY": "k" * 32}
    settings = load_settings({**keys, "METERGATE_CONFIG": str(tmp_path)}, mode="command")
    assert {"openai", "anthropic"} <= {name for name, each in settings.providers.items() if each.enabled}


def test_the_stores_of_one_node_are_those_of_compose():
    """Same images, same settings."""
    stores = manifests((FOLDER / "overlays" / "one-node" / "stores.yaml").read_text())
    for name in ("postgres", "valkey"):
        (container,) = named(stores, "StatefulSet", name)["spec"]["template"]["spec"]["containers"]
        assert f":-{container['image']}}}" in COMPOSE["services"][name]["image"]
    conf = (FOLDER / "overlays" / "one-node" / "valkey.conf").read_text()
    assert dict(line.split(" ", 1) for line in conf.splitlines()).items() <= valkey_settings().items()


async def test_valkey_starts_by_the_command_of_its_pod_and_asks_for_the_password(tmp_path):
    """The embedded server's program; only folders and port are this test's."""
    stores = manifests((FOLDER / "overlays" / "one-node" / "stores.yaml").read_text())
    (container,) = named(stores, "StatefulSet", "valkey")["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    (tmp_path / "valkey-server").symlink_to(valkey_server())
    conf = (FOLDER / "overlays" / "one-node" / "valkey.conf").read_text().replace("/data", str(tmp_path))
    (tmp_path / "etc.conf").write_text(f"{conf}port 0\nunixsocket {tmp_path}/redis.sock\n")
    script = script.replace("/etc/valkey/valkey.conf", f"{tmp_path}/etc.conf").replace("/run/valkey", str(tmp_path))
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VALKEY_PASSWORD": "swordfish"}
    process = await asyncio.create_subprocess_exec(shell, option, script, env=environ, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while not (tmp_path / "redis.sock").exists():
                await asyncio.sleep(0.02)
        assert "NOAUTH" in await pinged(tmp_path / "redis.sock", "")
        assert await pinged(tmp_path / "redis.sock", "swordfish") == "PONG"
    finally:
        process.kill()
        await process.wait()
