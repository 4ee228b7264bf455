"""What the gateway that runs says of itself, for `doctor`: its health, and which of its providers are on.

It is the `metergate up` of the data folder, else the one that METERGATE_API_URL names with an admin key, else whatever
answers at LISTEN_ADDR, which is only asked for what it tells anybody.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from billing.errors import MetergateError
from billing.schemas.system import HealthShape

if TYPE_CHECKING:
    from gateway.commands.data_folder import GatewayAccess
    from gateway.config.environment import Environment
    from gateway.config.settings import Settings

HEALTH: Final = "/healthz"
EVERY_ADDRESS: Final = ("", "0.0.0.0", "[::]")  # noqa: S104 - what a gateway may listen at
MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers: its health, and why each of its providers is off; None where it does not say."""

    url: str
    health: HealthShape
    off: Mapping[str, str | None] | None = None


async def ask_running(settings: Settings, environment: Environment, timeout_s: float) -> Running | None:
    """Return what the running gateway says; None where none answers."""
    access = _access(environment)
    if access is not None:
        return await _asked(access, timeout_s)
    host, _, port = settings.listen_addr.rpartition(":")
    url = f"http://{'127.0.0.1' if host in EVERY_ADDRESS else host}:{port}"
    health = await asyncio.to_thread(_health, url, timeout_s)
    return None if health is None else Running(url, health)


def _access(environment: Environment) -> GatewayAccess | None:
    from gateway.commands.data_folder import BadKeyFile, GatewayAccess, find_own_gateway

    try:
        if (own := find_own_gateway(environment.data_dir)) is not None:
            return own
    except BadKeyFile:
        return None
    url, key = environment.api_url, environment.admin_api_key
    return None if url is None or key is None else GatewayAccess(url, key)


async def _asked(access: GatewayAccess, timeout_s: float) -> Running | None:
    from billing.cli.client import CommandClient

    try:
        client = CommandClient(access.url, admin_key=access.admin_key.reveal(), timeout_s=timeout_s)
        health, providers = await client.health(), await client.providers()
    except (MetergateError, ValueError):
        return None
    return Running(access.url, health, {each.name: each.off_reason for each in providers.data})


def _health(url: str, timeout_s: float) -> HealthShape | None:
    try:
        with urllib.request.urlopen(f"{url}{HEALTH}", timeout=timeout_s) as answer:  # noqa: S310 - http, as made above
            return msgspec.json.decode(answer.read(MOST_BYTES), type=HealthShape)
    except (OSError, ValueError, urllib.error.URLError, msgspec.DecodeError):
        return None
