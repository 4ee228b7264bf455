"""What the doctor finds of the configuration, the environment, the disk and, where that is asked for, providers."""

import asyncio
import ipaddress
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from billing.plans import Plan
from gateway.config.environment import UP_METRICS_ADDR
from gateway.config.settings import ModelConfig, ProviderConfig, Settings

if TYPE_CHECKING:
    import aiohttp

Status = Literal["ok", "warn", "fail"]
MIB: Final = 1024 * 1024
# Of a disk: with less free, journals and Postgres's write-ahead log may fill it within hours.
LITTLE_BYTES: Final = 1024 * MIB
# With less free, Postgres may stop at its next checkpoint: a segment of its write-ahead log has 16 MiB.
LEAST_BYTES: Final = 128 * MIB
TOKEN_CHARACTERS: Final = 24
SHOWN: Final = 5
# Lists models in OpenAI's API and in those like it; it costs nothing.
MODELS_PATH: Final = "/models"
REFUSED: Final = (401, 403)
UNKNOWN: Final = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `mend` says what to do, and is empty if nothing has to be done."""

    name: str
    status: Status
    message: str
    mend: str = ""


def check_disk(settings: Settings) -> list[Check]:
    """Free space where this installation writes: the data folder, where servers are embedded, and the spool."""
    folders = {}
    if settings.database_url is None or settings.redis_url is None or settings.data_dir.exists():
        folders["disk"] = settings.data_dir
    if settings.spool_dir is not None and not settings.spool_dir.is_relative_to(settings.data_dir):
        folders["spool disk"] = settings.spool_dir
    if settings.request_log not in (None, "-"):
        folders["request log disk"] = Path(str(settings.request_log)).parent
    return [disk_finding(name, folder) for name, folder in folders.items()]


def disk_finding(name: str, folder: Path) -> Check:
    """Return how much is free for a folder, or for the nearest one above it that there is."""
    existing = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(name, "warn", f"{folder}: {error.strerror}", "See that this user may read the folder.")
    detail = f"{folder}: {free // MIB:,} MiB free"
    if free < LEAST_BYTES:
        return Check(name, "fail", detail, "Free some space, or nothing can be written there soon.")
    if free < LITTLE_BYTES:
        return Check(name, "warn", detail, "Free some space before it is used up.")
    return Check(name, "ok", detail)


def check_models(
    providers: Mapping[str, ProviderConfig], models: Mapping[str, ModelConfig], plans: Mapping[str, Plan]
) -> list[Check]:
    """Return the models that nobody can use, because their provider is off: worth a warning where a plan or a model
    that is on counts on one of them."""
    on = {name for name, model in models.items() if providers[model.provider].enabled}
    relied = {name for plan in plans.values() for name in plan.models or ()}
    relied |= {name for each in on for name in models[each].fallbacks}
    found, off, unmissed = [], [], 0
    for provider in providers.values():
        names = [model.name for model in models.values() if model.provider == provider.name]
        if provider.enabled or not names:
            continue
        missed = sorted(relied.intersection(names))
        if missed:
            because = f"{provider.name} is off ({provider.off_reason}): {_some(names)}"
            mend = f"Turn {provider.name} on, or take what counts on them out of plans or fallbacks: {_some(missed)}."
            found.append(Check("models", "warn", f"{len(names)} can't be used, because {because}", mend))
        else:
            unmissed += len(names)
            off.append(f"{provider.name} ({provider.off_reason})")
    if off:
        detail = f"{unmissed} can't be used, because their providers are off: {', '.join(off)}"
        found.append(Check("models", "ok", detail))
    return found or [Check("models", "ok", f"the provider of each of {len(models)} is on")]


def check_secrets(settings: Settings) -> list[Check]:
    """Return secrets that are short enough to be guessed; keys, and what signs tokens, were refused when they were
    read."""
    tokens = (("INTERNAL_SERVICE_TOKEN", settings.internal_service_token),)
    short = [name for name, secret in tokens if secret is not None and len(secret.reveal()) < TOKEN_CHARACTERS]
    if not short:
        return [Check("secrets", "ok", "none is short")]
    detail = f"{', '.join(short)}: short enough to be guessed"
    return [Check("secrets", "fail", detail, "Make new ones with `openssl rand -hex 32`.")]


def check_metrics(settings: Settings) -> list[Check]:
    """Find whether anybody may read the metrics, which say what providers cost: METRICS_ADDR asks for no key."""
    address = settings.metrics_addr
    if address is None:
        detail = "at /metrics of the gateway, with the admin key"
        if settings.metrics_addr_optional:
            detail = f"of `metergate up`: at {UP_METRICS_ADDR}, without a key; of `metergate serve`: {detail}"
        return [Check("metrics", "ok", detail)]
    host = address.rpartition(":")[0].strip("[]")
    if not _is_public(host):
        return [Check("metrics", "ok", f"at {address}, without a key, on an address of your own network")]
    detail = f"METRICS_ADDR {address} asks for no key, and anybody may reach that address"
    mend = "Name an address that only your Prometheus reaches, such as 127.0.0.1:9090, or have a firewall guard it."
    return [Check("metrics", "warn", detail, mend)]


def _is_public(host: str) -> bool:
    """Return whether an address is every one of this machine, or one of the open internet; a name is not judged."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_global


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_development(settings: Settings) -> list[Check]:
    """Find whether applications of this environment believe whoever names a user; nothing where they do not."""
    if not settings.development:
        return []
    detail = "METERGATE_DEVELOPMENT=1: X-User-Id and ?user_id= stand for a key in applications with the middleware"
    return [Check("development", "warn", detail, "Unset it wherever others can call them.")]


def configuration_checks(settings: Settings) -> Iterator[Check]:
    """Give every finding of the configuration, the environment and the disk."""
    yield from check_models(settings.providers, settings.models, settings.plans)
    yield from check_secrets(settings)
    yield from check_development(settings)
    yield from check_metrics(settings)
    yield from check_disk(settings)


async def check_mail(settings: Settings) -> list[Check]:
    """Return whether the mail server takes our name and password, where there is one; no mail is sent."""
    if settings.smtp_host is None:
        return []
    from billing.identity.mailer import MailFailed
    from gateway.runtime.outgoing import mail_delivery

    delivery = mail_delivery(settings, console=False)
    if delivery is None:
        return []
    try:
        async with delivery():
            return [Check("mail", "ok", f"{settings.smtp_host} takes mails from {settings.smtp_from}")]
    except MailFailed as error:
        return [Check("mail", "fail", str(error), "Correct the SMTP_ variables, or see why the server is away.")]


async def check_providers(providers: Iterable[ProviderConfig], timeout_s: float) -> list[Check]:
    """Call each provider that is on and elsewhere once. No finding shows a key, a header or an answer's body."""
    import aiohttp

    asked = [provider for provider in providers if provider.enabled and provider.base_url]
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return list(await asyncio.gather(*(_check(session, provider, timeout_s) for provider in asked)))


async def _check(session: "aiohttp.ClientSession", provider: ProviderConfig, timeout_s: float) -> Check:
    from aiohttp import ClientError

    name = f"provider {provider.name}"
    headers = dict(provider.headers)
    if provider.api_key is not None:
        headers["Authorization"] = f"Bearer {provider.api_key.reveal()}"
    url = provider.base_url + MODELS_PATH
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            status = answer.status
    except TimeoutError:
        mend = "See that this machine may reach it, or give --timeout more seconds."
        return Check(name, "fail", f"{url}: no answer within {timeout_s:g} s", mend)
    except (ClientError, OSError, ValueError) as error:
        return Check(
            name, "fail", f"{url}: {type(error).__name__}", "Correct its base_url, or let this machine reach it."
        )
    detail = f"{url}: HTTP {status}"
    if status in REFUSED:
        return Check(name, "fail", f"{detail}: the key is refused", "Set the provider's key anew: it may be revoked.")
    if status in UNKNOWN:
        return Check(
            name, "warn", f"{detail}: it is there, and lists no models", "Try a request: the key was not checked."
        )
    if not 200 <= status < 300:
        return Check(
            name, "warn", f"{detail}: it is there, and does not answer well", "See the provider's status page."
        )
    return Check(name, "ok", f"{detail}: the key is taken" if provider.api_key is not None else detail)
