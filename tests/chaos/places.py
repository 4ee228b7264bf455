"""Where a stack lives and what it is told: its folder, its configuration, its environment, a port."""

import os
import resource
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import psutil
import yaml

from gateway.embedded.folders import POINTER_NAME
from gateway.embedded.servers import Endpoints
from tests.chaos.plan import INPUT_NANO, MAX_OUTPUT_TOKENS, MODEL, OUTPUT_NANO

ROOT = Path(__file__).parent.parent.parent
ADMIN_KEY = "admin-key-of-all-the-chaos"
CONNECTIONS = 16_384
WIDE = [
    {"window": "minute", "metric": "requests", "limit": 1_000_000},
    {"window": "hour", "metric": "output_tokens", "limit": 1_000_000_000},
    {"window": "day", "metric": "tokens", "limit": 1_000_000_000},
    {"window": "week", "metric": "input_tokens", "limit": 1_000_000_000},
    {"window": "month", "metric": "cost", "limit": "1000"},
    {"window": "total", "metric": "tokens", "limit": 1_000_000_000},
]


def allow_connections() -> None:
    """A thousand clients and as many provider's connections live in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_folder(postgres_folder: Path | None) -> Path:
    """A new folder; `postgres_folder` is where Postgres's data shall be instead."""
    folder = Path(tempfile.mkdtemp(prefix="metergate-chaos-"))
    folder.chmod(0o711)  # as root, Postgres runs as a user who has to pass through
    if postgres_folder is not None:
        (folder / "data").mkdir()
        (folder / "data").chmod(0o711)
        (folder / "data" / POINTER_NAME).write_text(f"{postgres_folder}\n")
    return folder


def make_environment(
    folder: Path,
    endpoints: Endpoints,
    address: str,
    upstream_url: str,
    defaults: Mapping[str, Any],
    *,
    embedded: bool,
    spare: bool = False,
) -> dict[str, str]:
    """Write the configuration files, and answer what the gateway's processes get as their environment; `embedded` says
    that Redis is the embedded one, `spare` that the provider has two keys and its model a fallback."""
    config = folder / "config"
    config.mkdir()
    per_million = {"input": _usd_per_million(INPUT_NANO), "output": _usd_per_million(OUTPUT_NANO)}
    price = {"provider": "chaos", "model": MODEL, "effective_from": "2024-01-01", "per_million": per_million}
    files: dict[str, Any] = {
        "metergate.yaml": {
            "providers": {"chaos": {"kind": "openai", "base_url": upstream_url}},
            "models": {MODEL: {"provider": "chaos"}},
            "defaults": dict(defaults),
        },
        "prices.yaml": [{**price, "max_output_tokens": MAX_OUTPUT_TOKENS}],
        "plans.yaml": {
            "free": {"name": "Free", "price_usd": "0"},
            "wide": {"name": "Wide", "price_usd": "0", "quotas": WIDE},
            "small": {"name": "Small", "price_usd": "20", "included_credit_usd": "10", "stripe_price": "small"},
            "large": {"name": "Large", "price_usd": "50", "included_credit_usd": "30", "stripe_price": "large"},
        },
    }
    if spare:
        main = files["metergate.yaml"]
        main["providers"]["chaos"]["targets"] = [{"api_key": "one"}, {"api_key": "other", "weight": 2}]
        main["providers"]["chaos"]["cooldown"] = {"failures": 3, "seconds": 0.5, "retry_after_s": 1}
        main["providers"]["spare"] = {"kind": "openai", "base_url": upstream_url.replace("/v1", "/spare/v1")}
        main["models"][MODEL]["fallbacks"] = ["spare"]
        main["models"]["spare"] = {"provider": "spare", "model": MODEL}
        files["prices.yaml"].append({**files["prices.yaml"][0], "provider": "spare"})
    for name, content in files.items():
        (config / name).write_text(yaml.safe_dump(content))
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "METERGATE_CONFIG": str(config),
        "METERGATE_EMBEDDED": str(int(embedded)),
        "LISTEN_ADDR": address,
        "DATABASE_URL": _with_host(endpoints.database_url),
        "REDIS_URL": endpoints.redis_url,
        "ADMIN_API_KEY": ADMIN_KEY,
    }


def _usd_per_million(nano: int) -> str:
    return f"{nano / 1000:.2f}"


def _with_host(database_url: str) -> str:
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query)["host"][0]
    return urlunsplit(parts._replace(netloc=f"{parts.netloc}{quote(folder, safe='')}", query=""))


def is_free(address: str) -> bool:
    """Whether `HOST:PORT` can be bound."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def living(pid: int | None) -> int | None:
    """The process id, if such a process runs."""
    return pid if pid is not None and psutil.pid_exists(pid) else None
