"""All settings, read once: the environment first, then three files. This file owns where the files are and how the
pieces meet; `gateway.config` has the pieces. Nothing else in the gateway reads the environment or a configuration file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from billing.plans import Plan, upgrade_cycles
from billing.prices import PriceTable
from gateway.config.defaults import Limits, read_defaults
from gateway.config.environment import Environment, Mode, PaymentProvider, read_environment
from gateway.config.exporters import ExporterSource
from gateway.config.models import (
    ModelConfig,
    ProviderConfig,
    ProviderKind,
    read_models,
    read_providers,
    unpriced_models,
)
from gateway.config.plans import VERSION, read_plans, read_plans_version
from gateway.config.prices import read_prices
from gateway.config.problems import ConfigError, Problem, Problems
from gateway.config.secret import Secret
from gateway.config.source import Value, read_file
from gateway.config.variables import GROUPS, VARIABLES, Variable

__all__ = [
    "GROUPS",
    "VARIABLES",
    "ConfigError",
    "ExporterSource",
    "Limits",
    "Mode",
    "ModelConfig",
    "PaymentProvider",
    "Problem",
    "ProviderConfig",
    "ProviderKind",
    "Secret",
    "Settings",
    "Variable",
    "load_settings",
    "unpriced_models",
    "warnings",
]

MAIN_FILE: Final = "metergate.yaml"
PRICES_FILE: Final = "prices.yaml"
PLANS_FILE: Final = "plans.yaml"
LOCAL_FOLDER: Final = Path("config")
SHIPPED_FOLDER: Final = Path(__file__).parent / "shipped"
"""Part of the package, so that an installation from a wheel serves without files of its own."""
FILES: Final = (MAIN_FILE, PRICES_FILE, PLANS_FILE)
_MAIN_KEYS: Final = ("providers", "models", "defaults")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Environment):
    """Everything that is configured: the environment's fields and what the files say. `folder` is where they stand,
    `notes` what was read and has no effect."""

    folder: Path
    providers: Mapping[str, ProviderConfig]
    models: Mapping[str, ModelConfig]
    prices: PriceTable
    plans: Mapping[str, Plan]
    plans_version: int
    defaults: Limits
    notes: tuple[Problem, ...] = ()


def load_settings(environ: Mapping[str, str], *, mode: Mode = "serve") -> Settings:
    """The settings of an environment and of the files that it leads to.

    `mode` is who asks: `up` listens on 127.0.0.1 by default; `command` needs nothing that only serving needs. Raises
    `ConfigError` with every problem of the environment and of all files.
    """
    problems = Problems()
    environment = read_environment(environ, mode, problems)
    folder = find_folder(environment.config_dir)
    main, price_file, plan_file = (
        read_file(folder / name, shown_path(folder / name), environ, problems) for name in FILES
    )
    providers: dict[str, ProviderConfig] = {}
    models: dict[str, ModelConfig] = {}
    defaults_at: Value | None = None
    model_names: tuple[str, ...] = ()
    if main is not None:
        section = main.section(_MAIN_KEYS, ("providers", "models"))
        providers_at, models_at = section.values.get("providers"), section.values.get("models")
        defaults_at = section.present("defaults")
        if providers_at is not None:
            providers = read_providers(providers_at)
        if models_at is not None:
            model_names = models_at.child_names
            models = read_models(models_at, () if providers_at is None else providers_at.child_names)
    prices = PriceTable(()) if price_file is None else read_prices(price_file)
    plans = {} if plan_file is None else read_plans(plan_file, model_names)
    plan_names = None if plan_file is None else tuple(name for name in plan_file.child_names if name != VERSION)
    defaults = Limits() if main is None else read_defaults(main, defaults_at, plan_names)
    plans_version = 0 if plan_file is None else read_plans_version(plan_file)
    problems.refuse()
    return Settings(
        **{each.name: getattr(environment, each.name) for each in fields(Environment)},
        folder=folder,
        providers=providers,
        models=models,
        prices=prices,
        plans=plans,
        plans_version=plans_version,
        defaults=defaults,
        notes=tuple(problems.notes),
    )


def find_folder(named: Path | None) -> Path:
    """The folder that METERGATE_CONFIG names, else `./config` if it has any of the files, else the shipped one."""
    if named is not None:
        return named
    here = any((LOCAL_FOLDER / name).is_file() for name in FILES)
    return LOCAL_FOLDER.absolute() if here else SHIPPED_FOLDER


def in_force(settings: Settings) -> str:
    """Says which files are in force, and why these."""
    if settings.config_dir is not None:
        why = "METERGATE_CONFIG names this folder"
    elif settings.folder == SHIPPED_FOLDER:
        why = "as shipped; `metergate init` writes copies to edit"
    else:
        why = "found where the command was started"
    return f"{', '.join(FILES)} of {settings.folder} ({why})"


def shown_path(path: Path) -> str:
    """A path as an operator would name it from where they stand."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def warnings(settings: Settings, at_s: float) -> tuple[str, ...]:
    """What an operator should know at start (`at_s` in Unix seconds) but that doesn't stop it, a sentence each."""
    found = [str(note) for note in settings.notes]
    for name in unpriced_models(settings.models, settings.prices, at_s):
        model = settings.models[name]
        found.append(f"model {name}: no price for {model.provider}/{model.model}; its requests will be refused")
    strangers = sorted({row.provider for row in settings.prices.rows} - set(settings.providers))
    if strangers:
        found.append(f"{PRICES_FILE} has prices of providers that {MAIN_FILE} doesn't have: {', '.join(strangers)}")
    for cycle in upgrade_cycles(settings.plans):
        way = " -> ".join((*cycle, cycle[0]))
        found.append(f"plans {way}: upgrade_to leads back to where it began; take it out of the largest of them")
    if settings.payment_provider == "stripe":
        for plan in settings.plans.values():
            if plan.price_nano and plan.stripe_price is None:
                found.append(f"plan {plan.id}: no stripe_price; nobody can subscribe to it")
    return tuple(found)
