"""What `up` and `serve` say once they serve: the address, what is on and off, the first key, a line to try. Pure."""

import shlex
from collections.abc import Sequence
from typing import Final

import msgspec

from billing.cli import Shown, Table
from billing.money import format_usd
from gateway.commands.first_account import GRANT_NANO, NAME, FirstAccount
from gateway.config.settings import Settings

DEMO_MODEL: Final = "demo"
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - what is listened on, as one would call it


def local_url(address: str) -> str:
    """The URL at which this machine reaches what listens on `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    return f"http://{_ANY_HOST.get(host, host)}:{port}"


def first_account_lines(first: FirstAccount) -> tuple[str, ...]:
    """The account and its key, which is shown this once."""
    return (
        f"Account {NAME} ({first.account_id}) has {format_usd(GRANT_NANO)} USD.",
        f"Its key, shown only this once: {first.key}",
    )


def try_line(url: str, key: str) -> str:
    """A curl line that gets an answer from the demonstration model."""
    body = msgspec.json.encode({"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}]}).decode()
    return shlex.join(
        [
            *("curl", "-sS", f"{url}/v1/chat/completions"),
            *("-H", f"Authorization: Bearer {key}"),
            *("-H", "Content-Type: application/json"),
            *("-d", body),
        ]
    )


def ready(
    settings: Settings,
    address: str,
    warnings: Sequence[str],
    *,
    first: FirstAccount | None = None,
    admin_key_file: str | None = None,
) -> Shown:
    """The result of a start that went well."""
    url = local_url(address)
    providers = [
        (provider.name, "on" if provider.enabled else f"off: {provider.off_reason}")
        for provider in settings.providers.values()
    ]
    parts: list[str | Table] = [f"Metergate serves on {url}", Table(("provider", "state"), providers)]
    parts += [f"Warning: {warning}" for warning in warnings]
    if admin_key_file is not None:
        parts.append(f"The admin key is in {admin_key_file}; `metergate operator` reads it there.")
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
        "providers": [
            {"name": provider.name, "on": provider.enabled, "off_reason": provider.off_reason}
            for provider in settings.providers.values()
        ],
        "warnings": list(warnings),
    }
    return Shown(data, tuple(parts))
