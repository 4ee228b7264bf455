"""What the first `metergate up` makes, an account with a key; and what `up` and `serve` print once they serve: the
address, what is on and off, the first key, a line to try."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
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


def try_line(url: str, key: str) -> str:
    """Return a curl line that gets an answer from the demonstration model. `key` is as it stands between double quotes
    in a shell: a key, or what reads one."""
    body = msgspec.json.encode({"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}]}).decode()
    headers = f'-H "Authorization: Bearer {key}" -H "Content-Type: application/json"'
    return f"curl -sS {shlex.quote(f'{url}/v1/chat/completions')} {headers} -d {shlex.quote(body)}"


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


@dataclass(frozen=True, slots=True)
class Welcome:
    """What `up` has made and found before it serves: the first account, where it was made by this start, the files that
    keys are in, and a link that signs the operator in."""

    first: FirstAccount | None = None
    first_key_file: Path | None = None
    admin_key_file: Path | None = None
    service_key_file: Path | None = None
    link: "LoginLink | None" = None
    shows_mails: bool = False

    def keys_line(self) -> str:
        """Return which keys are in which files."""
        first = f"the account {ACCOUNT_NAME} ({format_usd(GRANT_NANO)} USD)"
        files = (
            (first, self.first_key_file if self.first is not None else None),
            ("`metergate operator`", self.admin_key_file),
            ("other services (X-API-Key)", self.service_key_file),
        )
        named = [(whose, file) for whose, file in files if file is not None]
        if not named:
            return ""
        return f"Keys, in {named[0][1].parent}: {', '.join(f'{file.name} of {whose}' for whose, file in named)}. "


SERVED: Final = Welcome()


def ready(
    settings: "Settings",
    address: str,
    warnings: Sequence[str],
    *,
    welcome: Welcome = SERVED,
    with_secrets: bool = False,
) -> Shown:
    """Return the result of a start that went well; `with_secrets` for a person, a private file or a script."""
    url, first = local_url(address), welcome.first
    console = f"{settings.identity.public_url or url}{CONSOLE}/"
    login_url = f"{console}enter/{welcome.link.secret}" if with_secrets and welcome.link is not None else None
    parts = list(serving_lines(settings, address, warnings))
    if login_url is not None:
        parts.append(f"Console, as the operator, once within ten minutes: {login_url}")
    else:
        parts.append(f"Console: {console} (`metergate operator login-link` makes a link that signs the operator in)")
    if first is not None and DEMO_MODEL in settings.models:
        from_file = f"$(cat {shlex.quote(str(welcome.first_key_file))})"
        parts.append(f"Try it: {try_line(url, first.key if with_secrets else from_file)}")
    elif first is None:
        parts.append("A key for an account: metergate operator key create ACCOUNT NAME")
    mails = "Mails, such as codes, are shown here: SMTP_HOST names no server. " if welcome.shows_mails else ""
    parts.append(f"{welcome.keys_line()}{mails}Ctrl-C stops it.")
    data = {
        "url": url,
        "account_id": first and first.account_id,
        "key": first and first.key,
        "admin_key_file": welcome.admin_key_file and str(welcome.admin_key_file),
        "service_key_file": welcome.service_key_file and str(welcome.service_key_file),
        "console_url": console,
        "login_url": login_url,
        "providers": [
            {"name": provider.name, "on": provider.enabled, "off_reason": provider.off_reason}
            for provider in settings.providers.values()
        ],
        "warnings": list(warnings),
    }
    return Shown(data, tuple(parts), secret=with_secrets)
