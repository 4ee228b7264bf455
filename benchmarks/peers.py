"""Other proxies to measure beside: nginx where it is installed, LiteLLM's and Portkey's where they are asked for.

    make bench ARGS="--target litellm"    installs it into a virtual environment of its own, below benchmarks/.targets
    make bench ARGS="--target portkey"    installs it with npm, in the same place

Each is set up as its documentation has it for a pass-through on one core: no database, no log of requests. LiteLLM
would compress its answers: it is asked not to, which spares it the work.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import wire
from benchmarks.load import Address
from benchmarks.machine import TARGET_CORE
from benchmarks.process import Process, StageError, bound_to_us, free_address, spawn
from benchmarks.stage import Stage
from benchmarks.subjects import NGINX, Report

LITELLM: Final = "litellm"
PORTKEY: Final = "portkey"
OPTIONAL: Final = (LITELLM, PORTKEY)
LITELLM_VERSION: Final = "1.106.0"
PORTKEY_VERSION: Final = "1.15.2"
TARGETS: Final = Path(__file__).parent / ".targets"
INSTALL_S: Final = 900.0
START_S: Final = 180.0
MASTER_KEY: Final = "sk-bench-master"

_PLAIN: Final = (("Accept-Encoding", "identity"),)
_NGINX_CONF: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream bench {{
        server {upstream_host}:{upstream_port};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {host}:{port} backlog=4096;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


class Missing(Exception):
    """This peer can't be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy that serves. `secret` is what it wants as a key, if anything; `exact`: it passes bytes on unchanged."""

    process: Process
    exact: bool
    secret: str = ""
    headers: wire.Headers = ()


async def start(name: str, stage: Stage, report: Report) -> Peer:
    """Install it where needed, and have it serve. Raises `Missing`."""
    starters = {NGINX: _nginx, LITELLM: _litellm, PORTKEY: _portkey}
    try:
        return await starters[name](stage, report)
    except StageError as error:
        raise Missing(str(error)) from error


async def _nginx(stage: Stage, report: Report) -> Peer:
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if binary is None:
        raise Missing("nginx is not installed (Debian's package nginx-light has it)")
    folder, address = stage.folder / "nginx", free_address()
    folder.mkdir()
    upstream_host, upstream_port = stage.upstream.address
    conf = folder / "nginx.conf"
    conf.write_text(
        _NGINX_CONF.format(
            folder=folder, host=address[0], port=address[1], upstream_host=upstream_host, upstream_port=upstream_port
        )
    )
    command = (binary, "-e", "stderr", "-p", str(folder), "-c", str(conf))
    return Peer(await _serving(NGINX, stage, command, address, {}, "/count"), exact=True)


async def _litellm(stage: Stage, report: Report) -> Peer:
    folder = TARGETS / f"{LITELLM}-{LITELLM_VERSION}"
    program = folder / "bin" / "litellm"
    if not program.exists():
        report(f"Installing LiteLLM {LITELLM_VERSION} into {folder} (once) ...")
        await _run(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
        await _run(*pip, f"litellm[proxy]=={LITELLM_VERSION}")
    address = free_address()
    config = stage.folder / "litellm.yaml"
    parameters = {"model": f"openai/{wire.MODEL}", "api_base": f"{stage.upstream_url}/v1", "api_key": "sk-bench"}
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "model_list": [{"model_name": wire.MODEL, "litellm_params": parameters}],
                "general_settings": {"master_key": MASTER_KEY},
                "litellm_settings": {"telemetry": False, "num_retries": 0},
            }
        )
    )
    place = ("--host", address[0], "--port", str(address[1]))
    command = (str(program), "--config", str(config), *place, "--num_workers", "1")
    environment = {"HOME": str(stage.folder), "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = await _serving(LITELLM, stage, command, address, environment, "/health/liveliness")
    return Peer(process, exact=False, secret=MASTER_KEY, headers=_PLAIN)


async def _portkey(stage: Stage, report: Report) -> Peer:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node and npm are not installed")
    folder = TARGETS / f"{PORTKEY}-{PORTKEY_VERSION}"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        report(f"Installing Portkey's gateway {PORTKEY_VERSION} into {folder} (once) ...")
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ("--no-audit", "--no-fund", "--loglevel=error")
        await _run(npm, "install", "--prefix", str(folder), *quiet, f"@portkey-ai/gateway@{PORTKEY_VERSION}")
    address = free_address()
    command = (node, str(program), f"--port={address[1]}", "--headless")
    environment = {"HOME": str(stage.folder), "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": address[0]}
    process = await _serving(PORTKEY, stage, command, address, environment, "/")
    headers = (*_PLAIN, ("x-portkey-provider", "openai"), ("x-portkey-custom-host", f"{stage.upstream_url}/v1"))
    return Peer(process, exact=False, secret="sk-bench", headers=headers)  # noqa: S106 - nobody checks it


async def _serving(
    name: str, stage: Stage, command: Sequence[str], address: Address, environment: dict[str, str], path: str
) -> Process:
    process = spawn(name, bound_to_us(command), address, stage.folder, TARGET_CORE, environment=environment)
    stage.keep(process)
    await process.until(lambda: process.answers(path), START_S)
    return process


async def _run(*command: str) -> None:
    """Run a command to its end. Raises `Missing` where it fails or takes too long."""

    def work() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)

    try:
        done = await asyncio.to_thread(work)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"{' '.join(command[:4])} failed: {' '.join(last)}")
