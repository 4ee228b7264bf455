"""Providers' bills by the settings: which providers are asked with which key, and the rounds of fetching, in one
gateway at a time."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from billing.provider_bills.bills import BillAccount, Bills, fetch
from billing.provider_bills.lines import Tolerance
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from billing.database.connection import Database
    from gateway.config.settings import ProviderConfig, Settings
    from gateway.metrics.registry import Metrics
    from gateway.runtime.runtime import Runtime

BILLS: Final = "provider_bills"
# Four times a day: what failed is tried again before the day is over.
EVERY_S: Final = 6 * 3600.0
# How often a gateway learns what the last comparison in any of them came to.
LOOK_S: Final = 60.0


def make_bills(settings: Settings, database: Database) -> Bills:
    """Return what reads and compares the bills of the configuration's providers."""
    accounts = {name: _account(each) for name, each in settings.providers.items()}
    return Bills(database, accounts, fetch, time.time)


def _account(provider: ProviderConfig) -> BillAccount:
    billing = provider.billing
    if billing is None:
        return BillAccount((provider.name,))
    tolerance = Tolerance(billing.tolerance_nano, round(billing.tolerance_percent * 100))
    providers = tuple(dict.fromkeys((provider.name, *billing.providers)))
    if billing.key is None:
        return BillAccount(providers, keys=billing.keys, tolerance=tolerance)
    return BillAccount(providers, billing.source, billing.base_url, billing.key.reveal(), billing.keys, tolerance)


def start_bills(runtime: Runtime, metrics: Metrics) -> None:
    """Start comparing, where a provider's bill can be fetched, and show the differences."""
    bills = runtime.services.bills
    if bills is None or not bills.asked:
        return
    for provider in bills.asked:
        told = "USD by which a provider's bill and the ledger differ, in the days that were compared last."
        metrics.gauge(
            "provider_difference_usd", told, partial(bills.difference_usd, provider), "max", provider=provider
        )
    lease = Lease(runtime.database, BILLS, runtime.services.new_id())

    async def compare() -> None:
        await bills.round()
        await bills.refresh()

    runtime.start(
        Periodic(name=BILLS, every_s=EVERY_S, round=compare, lease=lease),
        Periodic(name=f"{BILLS}_look", every_s=LOOK_S, round=bills.refresh),
    )
