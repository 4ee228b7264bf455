"""What keeps and writes bodies, where they are logged at all."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from billing.money import MILLION
from billing.schemas.payments import BodyLogShape
from gateway.body_logs.recording import HEADER, OFF, BodyLog
from gateway.config.environment import Environment
from gateway.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.body_logs.places import Place
    from gateway.body_logs.sealed_file import Keys
    from gateway.body_logs.writer import BodyWriter
    from gateway.config.body_logs import BodyLogConfig
    from gateway.config.settings import Settings

# A header of a provider that may be a secret.
LONG: Final = 20


def open_body_log(settings: Settings, gateway_id: str) -> BodyWriter | None:
    """Return what writes the bodies of one process; None where none are logged. Raises `StoreFailed`."""
    config = settings.body_logs
    if config is None:
        return None
    from gateway.body_logs.redaction import Redactor
    from gateway.body_logs.writer import BodyWriter
    from gateway.proxy.decoding_tap import decoded

    place, keys = place_and_keys(config)
    redactor = Redactor(config.redact, config.max_field_bytes, _secrets(settings))
    return BodyWriter(BodyLog(config), place, redactor, keys, gateway_id, decoded)


def place_and_keys(config: BodyLogConfig) -> tuple[Place, Keys]:
    """Return where files are, and what seals and opens them. Raises `StoreFailed`."""
    from gateway.body_logs.places import open_place
    from gateway.body_logs.sealed_file import Keys

    keys = Keys(config.encryption_key.reveal(), [each.reveal() for each in config.encryption_keys_before])
    return open_place(config.to, config.folder_free_bytes, os.environ), keys


def told_of_logs(config: BodyLogConfig | None, account_id: str) -> BodyLogShape | None:
    """Return what an account is told of what is kept of its bodies; None where nothing is."""
    if config is None or not config.covers(account_id):
        return None
    whole, part = divmod(config.sample, MILLION)
    share = f"{whole}.{part:06d}".rstrip("0").rstrip(".")
    header = f"{HEADER}: {OFF}" if config.client_opt_out else None
    return BodyLogShape(share=share, keep_days=config.keep_days, opt_out=header)


def _secrets(settings: Settings) -> Iterator[str]:
    """Yield the secrets of this gateway, which are in no file whatever a body says."""
    found = [getattr(settings, each.name) for each in fields(Environment)]
    for provider in settings.providers.values():
        found.append(provider.api_key)
        for target in provider.all_targets:
            found += [target.api_key, *(Secret(each) for each in target.headers.values() if len(each) >= LONG)]
    if settings.body_logs is not None:
        found += [settings.body_logs.encryption_key, *settings.body_logs.encryption_keys_before]
    yield from (each.reveal() for each in found if isinstance(each, Secret))
