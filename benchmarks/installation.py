"""One Metergate to measure: a database and a Redis of its own, its configuration, its customers."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import wire
from benchmarks.apis import APIS
from benchmarks.seed import PLAN
from gateway.metrics.registry import METRICS_DIR_VARIABLE

PROVIDER: Final = "bench"
CONTEXT_WINDOW: Final = 2_000_000
MAX_OUTPUT_TOKENS: Final = 16_384
# Above the default: every one of the slow streams has a connection of its own.
UPSTREAM_CONNECTIONS: Final = 8_192

# Above the default: half a minute of comparing all accounts would fall into one phase or another by chance. What it
# costs is measured by itself, in `growth`.
RECONCILE_INTERVAL_S: Final = 86_400


@dataclass(slots=True)
class Installation:
    """One Metergate's stores and customers. `secrets` are by the number of windows; `counted` is the secret of the
    customer whose prompts have to be counted; `answers` how many whole answers its workers have given; `more` are
    further variables."""

    database_url: str
    redis_url: str
    config: Path
    secrets: dict[int, list[str]]
    counted: str
    answers: int = 0
    more: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What a gateway process is told, with a folder of its own for its metrics."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "METERGATE_CONFIG": str(self.config),
            METRICS_DIR_VARIABLE: tempfile.mkdtemp(prefix="metrics-", dir=self.config),
            **self.more,
        }


def write_config(folder: Path, upstream_url: str, defaults: Mapping[str, object]) -> None:
    """The three files: a provider of each kind at `upstream_url`, models of the same price, one plan without quotas."""
    folder.mkdir()
    models = {wire.MODEL: PROVIDER, wire.COUNTED_MODEL: PROVIDER, **{api.model: api.kind for api in APIS}}
    providers = {PROVIDER: ("openai", "/v1")}
    providers |= {api.kind: (api.kind, "/v1" if api.kind == "openai" else "") for api in APIS}
    files = {  # JSON is YAML
        "metergate.yaml": {
            "providers": {
                name: {"kind": kind, "base_url": upstream_url + path, "api_key": "sk-bench"}
                for name, (kind, path) in providers.items()
            },
            "models": {model: {"provider": provider} for model, provider in models.items()},
            "defaults": {
                "upstream_connections": UPSTREAM_CONNECTIONS,
                "reconcile_interval_s": RECONCILE_INTERVAL_S,
                **defaults,
            },
        },
        "prices.yaml": [_price(model, provider) for model, provider in models.items()],
        "plans.yaml": {PLAN: {"name": "Bench", "price_usd": "0"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))


def _price(model: str, provider: str) -> dict[str, object]:
    return {
        "provider": provider,
        "model": model,
        "effective_from": "2024-01-01",
        "per_million": {"input": wire.INPUT_USD_PER_MILLION, "output": wire.OUTPUT_USD_PER_MILLION},
        "max_output_tokens": MAX_OUTPUT_TOKENS,
        "context_window": CONTEXT_WINDOW,
    }
