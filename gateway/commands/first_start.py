"""What the first `metergate up` makes, an account with a key; and what `up` and `serve` print once they serve: the
address, what is on and off, the first key, a line to try."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from billing.cli.output import Shown
from billing.identity.providers import CONSOLE
from billing.money import NANO_PER_USD, format_usd

if TYPE_CHECKING:
    from billing.identity.browsers import LoginLink
    from gateway.config.settings import Settings
    from gateway.runtime.runtime import Runtime

ACCOUNT_NAME: Final = "default"
GRANT_NANO: Final = 5 * NANO_PER_USD
# Fixed, so that a first start that was cut off and repeated grants once.
GRANT_KEY: Final = "metergate-up-first-account"
GRANT_NOTE: Final = "first account"
DEMO_MODEL: Final = "demo"
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - what is listened on, as one would call it


@dataclass(frozen=True, slots=True)
class FirstAccount:
    """The account and its key; `key` is the secret, which can't be had again."""

    account_id: str
    key: str = field(repr=False)


async def make_first_account(runtime: "Runtime") -> FirstAccount | None:
    """Make the account where there is none yet, or finish what an earlier start was kept from; None where all is there.

    Raises `DatabaseError`.
    """
    page = await runtime.accounts.page(2)
    match page.items:
        case []:
            account = await runtime.accounts.create(ACCOUNT_NAME, runtime.settings.defaults.accounts.default_plan)
        case [only] if only.name == ACCOUNT_NAME and not (await runtime.api_keys.page(only.id, 1)).items:
            account = only
        case _:
            return None
    await runtime.grants.grant(account.id, GRANT_NANO, GRANT_KEY, GRANT_NOTE)
    _, secret = await runtime.api_keys.create(account.id, ACCOUNT_NAME)
    return FirstAccount(account.id, secret)


def local_url(address: str) -> str:
    """Return the URL at which this machine reaches what listens on `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    return f"http://{_ANY_HOST.get(host, host)}:{port}"


def first_account_lines(first: FirstAccount) -> tuple[str, ...]:
    """Return lines with the account and its key, which is shown this once."""
    return (
        f"Account {ACCOUNT_NAME} ({first.account_id}) has {format_usd(GRANT_NANO)} USD.",
        f"Its key, shown only this once: {first.key}",
    )


def try_line(url: str, key: str) -> str:
    """Return a curl line that gets an answer from the demonstration model."""
    body = msgspec.json.encode({"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}]}).decode()
    return shlex.join(
        [
            "curl",
            "-sS",
            f"{url}/v1/chat/completions",
            "-H",
            f"Authorization: Bearer {key}",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
        ]
    )


def serving_lines(settings: "Settings", address: str, warnings: Sequence[str]) -> tuple[str, ...]:
    """Return where a gateway serves, what is on, and what to know: no secret is in it."""
    on = ", ".join(provider.name for provider in settings.providers.values() if provider.enabled) or "none"
    off = sum(1 for provider in settings.providers.values() if not provider.enabled)
    lacking = f"; off: {off} (`metergate operator provider list` says what each lacks)" if off else ""
    return (
        f"Metergate serves on {local_url(address)}",
        f"Providers on: {on}{lacking}",
        *(f"Warning: {warning}" for warning in warnings),
    )


def ready(
    settings: "Settings",
    address: str,
    warnings: Sequence[str],
    *,
    first: FirstAccount | None = None,
    admin_key_file: str | None = None,
    service_key_file: str | None = None,
    link: "LoginLink | None" = None,
) -> Shown:
    """Return the result of a start that went well."""
    url = local_url(address)
    console = f"{settings.identity.public_url or url}{CONSOLE}/"
    login_url = None if link is None else f"{console}enter/{link.secret}"
    parts = list(serving_lines(settings, address, warnings))
    if admin_key_file is not None and service_key_file is not None:
        parts.append(
            f"Keys: `metergate operator` reads {admin_key_file}; other services send what is in {service_key_file} "
            "as X-API-Key."
        )
    elif admin_key_file is not None:
        parts.append(f"Keys: `metergate operator` reads {admin_key_file}.")
    elif service_key_file is not None:
        parts.append(f"Keys: other services send what is in {service_key_file} as X-API-Key.")
    if login_url is None:
        parts.append(f"The console is at {console}")
    else:
        parts.append(f"The operator's console, once within ten minutes: {login_url}")
    if link is not None and settings.smtp_host is None:
        parts.append("Mails, such as the codes of people who register, are shown here: SMTP_HOST names no server.")
    if first is not None and DEMO_MODEL in settings.models:
        parts += ["Try it:", try_line(url, first.key)]
    elif first is None:
        parts.append(
            "A key for an account: metergate operator account list; metergate operator key create ACCOUNT NAME"
        )
    parts.append("Ctrl-C stops it.")
    data = {
        "url": url,
        "account_id": first and first.account_id,
        "key": first and first.key,
        "admin_key_file": admin_key_file,
        "service_key_file": service_key_file,
        "console_url": console,
        "login_url": login_url,
        "providers": [
            {"name": provider.name, "on": provider.enabled, "off_reason": provider.off_reason}
            for provider in settings.providers.values()
        ],
        "warnings": list(warnings),
    }
    return Shown(data, tuple(parts))
