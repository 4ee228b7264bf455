"""One Metergate to measure: a database and a Redis of its own, its configuration, its customers."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import wire
from benchmarks.seed import PLAN
from gateway.metrics.registry import METRICS_DIR_VARIABLE

PROVIDER: Final = "bench"
CONTEXT_WINDOW: Final = 2_000_000
MAX_OUTPUT_TOKENS: Final = 16_384
UPSTREAM_CONNECTIONS: Final = 8_192
"""Above the default: every one of the slow streams has a connection of its own."""

RECONCILE_INTERVAL_S: Final = 86_400
"""Above the default: half a minute of comparing all accounts would fall into one phase or another by chance. What it
costs is measured by itself, in `growth`."""


@dataclass(slots=True)
class Installation:
    """One Metergate's stores and customers. `secrets` are by the number of windows; `counted` is the secret of the
    customer whose prompts have to be counted; `answers` how many whole answers its workers have given."""

    database_url: str
    redis_url: str
    config: Path
    secrets: dict[int, list[str]]
    counted: str
    answers: int = 0

    def environment(self) -> dict[str, str]:
        """What a gateway process is told, with a folder of its own for its metrics."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "METERGATE_CONFIG": str(self.config),
            METRICS_DIR_VARIABLE: tempfile.mkdtemp(prefix="metrics-", dir=self.config),
        }


def write_config(folder: Path, upstream_url: str, partitions: int) -> None:
    """The three files: one provider, two models of the same price, one plan without quotas."""
    folder.mkdir()
    files = {  # JSON is YAML
        "metergate.yaml": {
            "providers": {PROVIDER: {"kind": "openai", "base_url": upstream_url, "api_key": "sk-bench"}},
            "models": {model: {"provider": PROVIDER} for model in (wire.MODEL, wire.COUNTED_MODEL)},
            "defaults": {
                "redis_partitions": partitions,
                "upstream_connections": UPSTREAM_CONNECTIONS,
                "reconcile_interval_s": RECONCILE_INTERVAL_S,
            },
        },
        "prices.yaml": [_price(model) for model in (wire.MODEL, wire.COUNTED_MODEL)],
        "plans.yaml": {PLAN: {"name": "Bench", "price_usd": "0"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))


def _price(model: str) -> dict[str, object]:
    return {
        "provider": PROVIDER,
        "model": model,
        "effective_from": "2024-01-01",
        "per_million": {"input": wire.INPUT_USD_PER_MILLION, "output": wire.OUTPUT_USD_PER_MILLION},
        "max_output_tokens": MAX_OUTPUT_TOKENS,
        "context_window": CONTEXT_WINDOW,
    }
