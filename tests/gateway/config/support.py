"""A small configuration that loads, to be spoilt one place at a time."""

from collections.abc import Mapping
from pathlib import Path

from gateway.config.settings import ConfigError, Mode, Settings, load_settings

MAIN = """\
providers:
  local: {kind: local}
  openai: {kind: openai, base_url: "https://api.openai.com/v1", api_key: "${OPENAI_API_KEY}"}
models:
  demo: {provider: local}
  fast: {provider: openai, model: gpt-4o-mini}
"""
PRICES = """\
- {provider: local, model: "*", effective_from: 2024-01-01, per_million: {input: "0.15", output: "0.60"}}
- {provider: openai, model: gpt-4o-mini, effective_from: "2024-07-18", per_million: {input: "0.15"}}
"""
PLANS = """\
free: {name: Free, price_usd: "0", upgrade_to: pro}
pro: {name: Pro, price_usd: "99"}
"""


def write(folder: Path, *, main: str = MAIN, prices: str = PRICES, plans: str = PLANS) -> dict[str, str]:
    """Writes the three files and gives the environment that leads to them."""
    folder.mkdir(exist_ok=True)
    for name, text in (("metergate", main), ("prices", prices), ("plans", plans)):
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    return {"METERGATE_CONFIG": str(folder)}


def load(
    folder: Path,
    environ: Mapping[str, str] | None = None,
    *,
    main: str = MAIN,
    prices: str = PRICES,
    plans: str = PLANS,
    mode: Mode = "serve",
) -> Settings:
    return load_settings(
        {**write(folder, main=main, prices=prices, plans=plans), **(environ or {})},
        mode=mode,
    )


def problems(
    folder: Path,
    environ: Mapping[str, str] | None = None,
    *,
    main: str = MAIN,
    prices: str = PRICES,
    plans: str = PLANS,
    mode: Mode = "serve",
) -> list[str]:
    """What a configuration is refused for, with file names alone for their places; empty when it loads."""
    try:
        load(folder, environ, main=main, prices=prices, plans=plans, mode=mode)
    except ConfigError as error:
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []
