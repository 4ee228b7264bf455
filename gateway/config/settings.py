"""All settings, read once: the environment first, then three files. This file owns how the pieces meet;
`gateway.config` has the pieces. Nothing else in the gateway reads the environment or a configuration file.

Every variable that users may set stands here in its group: `.env.example` is made of them, and the documentation's
tables equal them. The settings' own are declared by the fields of `gateway.config.environment`, those of files alone
here.

The `identity` of metergate.yaml, who is let in and how, is read here, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from msgspec import Struct, structs

from billing.addresses import is_this_machine
from billing.identity.providers import GROUPS_CLAIM, OIDC_SCOPES, SignInProvider
from billing.permissions import Approval
from billing.plans import Plan, upgrade_cycles
from billing.pricing import METER_PROVIDER, PriceTable
from billing.settings import DAY_S
from gateway.config.body_logs import BodyLogConfig, read_body_logs
from gateway.config.defaults import Defaults, read_defaults
from gateway.config.environment import VARIABLES_OF, Environment, Mode, Variable, read_environment
from gateway.config.exports import ExportConfig, off_reason, read_exports
from gateway.config.plans import (
    VERSION,
    PaymentsConfig,
    read_payments,
    read_plans,
    read_plans_version,
    with_stripe_prices,
)
from gateway.config.prices import read_prices
from gateway.config.providers import (
    ApiKey,
    BaseUrl,
    ModelConfig,
    ProviderConfig,
    read_models,
    read_providers,
    unpriced_models,
)
from gateway.config.secret import Secret
from gateway.config.source import (
    FILES,
    MAIN_FILE,
    PRICES_FILE,
    SHIPPED_FOLDER,
    ConfigError,
    FileMarks,
    Problem,
    Problems,
    Value,
    file_marks,
    find_folder,
    read_by,
    read_file,
    read_section,
    text,
)
from gateway.dialects.declarations import BetaEffect

# Says "1" to a worker of `metergate up`: without SMTP_HOST it shows mails where it was started from.
MAIL_CONSOLE_VARIABLE: Final = "METERGATE_MAIL_CONSOLE"
GITHUB: Final = "https://github.com"
GITHUB_API: Final = "https://api.github.com"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
Scope = Annotated[str, text("a scope", r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")]
Domain = Annotated[str, text("a domain such as example.com", r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")]
OrganizationId = Annotated[str, text("the id of an organization, org_...", r"org_[A-Za-z0-9]{1,60}")]
Claim = Annotated[str, text("the name of a claim", r"[\x21-\x7e]{1,200}")]
MAX_PROVIDERS: Final = 50


class _Provider(Struct, frozen=True):
    """A provider as the file has it."""

    client_id: str
    client_secret: ApiKey
    kind: Literal["oidc", "github"] | None = None
    issuer: BaseUrl | None = None
    api_url: BaseUrl | None = None
    scopes: tuple[Scope, ...] | None = None
    trusted_email: bool = False
    allowed_domains: tuple[Domain, ...] = ()
    organization: OrganizationId | None = None
    groups_claim: Claim = GROUPS_CLAIM


def _read_providers(value: Value) -> dict[str, SignInProvider]:
    """Return the providers by name; one whose secret's variable is unset is off, and left out."""
    found: dict[str, SignInProvider] = {}
    for name, entry in value.entries().items():
        if not _NAME.fullmatch(name) or len(found) >= MAX_PROVIDERS:
            entry.problem(f"a provider's name is lower-case letters, digits, '_' and '-'; at most {MAX_PROVIDERS}")
        given = read_section(entry, _Provider)
        if given is None:
            continue
        kind = given.kind or ("github" if name == "github" else "oidc")
        if kind == "oidc" and given.issuer is None:
            entry.missing("issuer")
        if kind == "github" and given.organization is not None:
            entry.problem("GitHub names no groups: organization is of providers of OpenID Connect")
        if given.client_secret.secret is not None:
            found[name] = _provider(kind, given, given.client_secret.secret.reveal())
    return found


def _provider(kind: Literal["oidc", "github"], given: _Provider, secret: str) -> SignInProvider:
    github = kind == "github"
    usual = ("read:user", "user:email") if github else OIDC_SCOPES
    return SignInProvider(
        issuer=(given.issuer or GITHUB).partition("?")[0].rstrip("/"),
        client_id=given.client_id,
        client_secret=secret,
        kind=kind,
        scopes=usual if given.scopes is None else given.scopes,
        trusted_email=given.trusted_email,
        allowed_domains=frozenset(given.allowed_domains),
        api_url=(given.api_url or (GITHUB_API if github else "")).rstrip("/"),
        organization=given.organization,
        groups_claim=given.groups_claim,
    )


class IdentityConfig(Struct, frozen=True, kw_only=True):
    """When somebody who has registered is let in: at once, once the address is verified, or by an operator; and where
    people may sign in elsewhere, by name. `public_url` is the gateway's for browsers, without a slash at its end."""

    approval: Approval = "verified"
    public_url: BaseUrl | None = None
    providers: Annotated[dict[str, SignInProvider], read_by(_read_providers)] = {}


def read_identity(at: Value | None) -> IdentityConfig:
    """Return the section; what is left out is as by default."""
    found = None if at is None else read_section(at, IdentityConfig)
    if at is None or found is None:
        return IdentityConfig()
    if found.public_url is None:
        if "providers" in at.entries():
            at.missing("public_url")
        return found
    return structs.replace(found, public_url=found.public_url.rstrip("/"))


_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_BETA: Final = re.compile(r"[!-+\--~]{1,200}", re.ASCII)
_EFFECTS: Final = ("pass", "window", "refuse")
LEAST_WINDOW: Final = 1_000
MOST_WINDOW: Final = 100_000_000


def read_betas(at: Value | None) -> Mapping[str, Mapping[str, BetaEffect]]:
    """Return effects by header and by how a feature's name begins; wrong ones are problems."""
    found: dict[str, dict[str, BetaEffect]] = {}
    for header, features in {} if at is None else at.entries().items():
        if not _HEADER.fullmatch(header):
            features.problem("expected the name of a header")
        found[header.lower()] = {}
        for name, value in {} if features.is_null else features.entries().items():
            if not _BETA.fullmatch(name):
                value.problem("expected how a feature's name begins, without blanks and commas")
            effect = _effect(value)
            if effect is not None:
                found[header.lower()][name.lower()] = effect
    return found


def _effect(value: Value) -> BetaEffect | None:
    text = value.scalar(_EXPECTED)
    if text is None or text in _EFFECTS:
        return cast("BetaEffect | None", text)
    if text.isascii() and text.isdigit() and LEAST_WINDOW <= int(text[:12]) <= MOST_WINDOW:
        return int(text)
    value.expected(_EXPECTED)
    return None


_EXPECTED: Final = f"{', '.join(_EFFECTS)}, or a context window from {LEAST_WINDOW} to {MOST_WINDOW} tokens"


__all__ = [
    "ConfigError",
    "Mode",
    "ModelConfig",
    "Problem",
    "ProviderConfig",
    "Secret",
    "Settings",
    "load_settings",
    "unpriced_models",
    "warnings",
]

PLAIN_EDGE_OPEN: Final = (
    "`plain` has no bounds on connections: let LISTEN_ADDR be this machine alone, or put a proxy in front that has "
    "them, and name it in TRUSTED_PROXIES"
)
_MAIN_KEYS: Final = ("providers", "models", "betas", "defaults", "identity", "payments", "exports", "body_logs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Environment):
    """Everything that is configured: the environment's fields and what the files say. `folder` is where they stand,
    `price_marks` those of the file that `prices` are of."""

    folder: Path
    providers: Mapping[str, ProviderConfig]
    models: Mapping[str, ModelConfig]
    prices: PriceTable
    price_marks: FileMarks
    plans: Mapping[str, Plan]
    plans_version: int
    defaults: Defaults
    identity: IdentityConfig
    payments: PaymentsConfig
    exports: tuple[ExportConfig, ...] = ()
    betas: Mapping[str, Mapping[str, BetaEffect]] = field(default_factory=dict)
    body_logs: BodyLogConfig | None = None

    @property
    def payment_grace_s(self) -> int:
        """Return how long an account that is past due may still spend."""
        return self.payment_grace_days * DAY_S


def load_settings(environ: Mapping[str, str], *, mode: Mode = "serve", with_prices: bool = True) -> Settings:
    """Return the settings of an environment and of the files that it leads to.

    `mode` is who asks: `up` listens on 127.0.0.1 by default; `command` needs nothing that only serving needs. A command
    that prices nothing does without the prices, which take longer to read than all else. Raises `ConfigError` with
    every problem of the environment and of all files.
    """
    problems = Problems()
    environment = read_environment(environ, mode, problems)
    folder = find_folder(environment.config_dir)
    price_marks = file_marks(folder / PRICES_FILE)
    main, price_file, plan_file = (
        read_file(folder / name, shown_path(folder / name), environ, problems)
        if with_prices or name != PRICES_FILE
        else None
        for name in FILES
    )
    sections, model_names, defaults_at = ({}, (), None) if main is None else _read_sections(main)
    prices = PriceTable(()) if price_file is None else read_prices(price_file)
    stripe_prices = {
        "starter": environment.stripe_price_starter,
        "professional": environment.stripe_price_professional,
        "enterprise": environment.stripe_price_enterprise,
    }
    plans = with_stripe_prices({} if plan_file is None else read_plans(plan_file, model_names), stripe_prices)
    plan_names = None if plan_file is None else tuple(name for name in plan_file.child_names if name != VERSION)
    defaults = Defaults() if main is None else read_defaults(main, defaults_at, plan_names)
    plans_version = 0 if plan_file is None else read_plans_version(plan_file)
    if mode != "command" and defaults.edge.edge == "plain" and not _plain_edge_is_guarded(environment):
        problems.add(shown_path(folder / FILES[0]), "defaults.edge", PLAIN_EDGE_OPEN)
    problems.refuse()
    return Settings(
        **{each.name: getattr(environment, each.name) for each in fields(Environment)},
        **sections,
        folder=folder,
        prices=prices,
        price_marks=price_marks,
        plans=plans,
        plans_version=plans_version,
        defaults=defaults,
    )


def _plain_edge_is_guarded(environment: Environment) -> bool:
    """Return whether nobody reaches the gateway but this machine and a proxy that is named."""
    return bool(environment.trusted_proxies) or is_this_machine(environment.listen_addr.rpartition(":")[0])


def _read_sections(main: Value) -> tuple[dict[str, Any], tuple[str, ...], Value | None]:
    """Return the sections of metergate.yaml, the names of its models, wrong ones included, and where its defaults
    stand."""
    section = main.section(_MAIN_KEYS, ("providers", "models"))
    providers, models = section.values.get("providers"), section.values.get("models")
    found = {
        "identity": read_identity(section.present("identity")),
        "payments": read_payments(section.present("payments")),
        "exports": read_exports(section.present("exports")),
        "betas": read_betas(section.present("betas")),
        "body_logs": read_body_logs(section.present("body_logs")),
        "providers": {} if providers is None else read_providers(providers),
    }
    if models is not None:
        found["models"] = read_models(models, () if providers is None else providers.child_names)
    names = () if models is None else models.child_names
    return found, names, section.present("defaults")


def listens_here(settings: Settings) -> bool:
    """Return whether the gateway is reached from its own machine alone."""
    return is_this_machine(settings.listen_addr.rpartition(":")[0])


def public_url(settings: Settings) -> str:
    """Return where browsers reach the gateway, without a slash at its end: as configured, else by its own address."""
    if settings.identity.public_url is not None:
        return settings.identity.public_url
    host, _, port = settings.listen_addr.rpartition(":")
    return f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]') else host}:{port}"  # noqa: S104


def in_force(settings: Settings) -> str:
    """Say which files are in force, and why these."""
    if settings.config_dir is not None:
        why = "METERGATE_CONFIG names this folder"
    elif settings.folder == SHIPPED_FOLDER:
        why = "as shipped; `metergate init` writes copies to edit"
    else:
        why = "found where the command was started"
    return f"{', '.join(FILES)} of {settings.folder} ({why})"


def shown_path(path: Path) -> str:
    """Return a path as an operator would name it from where they stand."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def warnings(settings: Settings, at_s: float) -> tuple[str, ...]:
    """Return what an operator should know at start (`at_s` in Unix seconds) but that doesn't stop it, a sentence
    each."""
    found = []
    for name in unpriced_models(settings.models, settings.prices, at_s):
        model = settings.models[name]
        found.append(f"model {name}: no price for {model.provider}/{model.model}; its requests will be refused")
    strangers = sorted({row.provider for row in settings.prices.rows} - {METER_PROVIDER, *settings.providers})
    if strangers:
        found.append(f"{PRICES_FILE} has prices of providers that {MAIN_FILE} doesn't have: {', '.join(strangers)}")
    for cycle in upgrade_cycles(settings.plans):
        way = " -> ".join((*cycle, cycle[0]))
        found.append(f"plans {way}: upgrade_to leads back to where it began; take it out of the largest of them")
    for plan in settings.plans.values():
        for name in (name for name, _ in plan.markups if name in settings.models):
            if settings.models[name].markup_scaled:
                found.append(f"plan {plan.id}: the own markup_percent of model {name} goes before its markup here")
    if settings.payment_provider == "local" and (settings.stripe_api_key or not listens_here(settings)):
        found.append("payments are local: credit is bought without money; PAYMENT_PROVIDER=stripe takes real payments")
    if settings.payment_provider == "stripe":
        for plan in settings.plans.values():
            if plan.price_nano and plan.stripe_price is None:
                found.append(f"plan {plan.id}: no stripe_price; nobody can subscribe to it")
    for export in settings.exports:
        if (reason := off_reason(export, settings.payment_provider, settings.lago_api_url)) is not None:
            found.append(f"export {export.name} is off: {reason}")
    return tuple(found)


# The first setting of each group, and the group's title.
_TITLES: Final = {
    "listen_addr": "Gateway",
    "traces": "Traces",
    "admin_api_key": "Keys of operators and services",
    "auth_base_url": "Sign-in",
    "payment_provider": "Payments",
    "smtp_host": "Notices",
    "lago_api_url": "Usage reporting to Lago",
    "exporter_sources": "Collecting traffic from exporters",
    "api_url": "Command line against a gateway elsewhere",
}
_HEAD: Final = """\
# Every variable that Metergate reads, with its default. Copy to .env, which docker compose reads by itself; for a
# shell: set -a; . ./.env; set +a. A variable set to nothing counts as unset.
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Variables that belong together, under one heading of `.env.example` and the documentation."""

    title: str
    variables: tuple[Variable, ...]


def _secret(name: str, help_text: str) -> Variable:
    return Variable(name, "", help_text, secret=True)


def _settings_groups() -> tuple[Group, ...]:
    found: dict[str, list[Variable]] = {}
    title = ""
    for each in fields(Environment):
        title = _TITLES.get(each.name, title)
        found.setdefault(title, []).extend(VARIABLES_OF[each.name])
    return tuple(Group(name, tuple(variables)) for name, variables in found.items())


# The variables that the shipped YAML files refer to and that are no setting of their own.
FILE_GROUP: Final = Group(
    "Provider keys (config/metergate.yaml refers to them; a provider without its key is off)",
    (
        _secret("OPENAI_API_KEY", "OpenAI"),
        _secret("ANTHROPIC_API_KEY", "Anthropic"),
        _secret("GEMINI_API_KEY", "Google Gemini"),
        _secret("DEEPSEEK_API_KEY", "DeepSeek"),
        _secret("MISTRAL_API_KEY", "Mistral"),
        _secret("GROQ_API_KEY", "Groq"),
        _secret("XAI_API_KEY", "xAI"),
        _secret("MOONSHOT_API_KEY", "Moonshot AI"),
        _secret("PERPLEXITY_API_KEY", "Perplexity"),
        _secret("TOGETHER_API_KEY", "Together AI"),
        _secret("FIREWORKS_API_KEY", "Fireworks AI"),
        _secret("COHERE_API_KEY", "Cohere"),
        _secret("VOYAGE_API_KEY", "Voyage AI"),
        _secret("JINA_API_KEY", "Jina AI"),
        _secret("OPENROUTER_API_KEY", "OpenRouter"),
        _secret("OPENAI_ADMIN_KEY", "OpenAI's bill, compared with the ledger"),
        _secret("ANTHROPIC_ADMIN_KEY", "Anthropic's bill"),
        _secret("OPENROUTER_MANAGEMENT_KEY", "OpenRouter's bill"),
    ),
)

# The variables of the compose file.
COMPOSE_GROUP: Final = Group(
    "docker-compose.yml alone",
    (
        _secret("POSTGRES_PASSWORD", "password of the bundled Postgres; letters, digits, `-` and `_`"),
        _secret("VALKEY_PASSWORD", "password of the bundled Valkey; letters, digits, `-` and `_`"),
        Variable("METERGATE_PORT", "8080", "port that the gateway is published on, on 127.0.0.1"),
        Variable("METERGATE_WORKERS", "2", "processes that serve"),
        Variable("METERGATE_CONFIG_FOLDER", "./config", "folder of the three YAML files: your own copy, to edit"),
        Variable("METERGATE_DOMAIN", "localhost", "name of this machine, for `--profile tls`"),
        Variable("POSTGRES_IMAGE", "postgres:17-alpine", "image of Postgres; pin it by its digest, `name@sha256:...`"),
        Variable("VALKEY_IMAGE", "valkey/valkey:8-alpine", "image of Valkey, likewise"),
        Variable("CADDY_IMAGE", "caddy:2-alpine", "image of Caddy, likewise"),
        Variable("PYTHON_IMAGE", "python:3.12-slim", "image that the gateway's is built on, likewise"),
    ),
)

GROUPS: Final = (*_settings_groups(), FILE_GROUP, COMPOSE_GROUP)
VARIABLES: Final = tuple(variable for group in GROUPS for variable in group.variables)


def environment_example() -> str:
    """Return the text of `.env.example`: every variable under its group, after a line that says what it is for."""
    parts = [_HEAD]
    for group in GROUPS:
        lines = [f"# {variable.help}\n{variable.name}={variable.default}\n" for variable in group.variables]
        parts.append("".join((f"# --- {group.title} ---\n", *lines)))
    return "\n".join(parts)
