"""What follows from the settings for the parts that work on the stores: bounds in the form that each takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from billing.addresses import Addresses
from billing.attempts import ADDRESSES_MAX, AttemptLimits, Attempts, counted_in_redis
from billing.holds.cache import CacheSettings
from billing.holds.engine import EngineSettings
from billing.holds.service import HoldSettings
from billing.refused import RefusedRules
from billing.shares import parse_share

if TYPE_CHECKING:
    from pathlib import Path

    from billing.holds.redis.state import RedisState
    from gateway.config.defaults import Limits
    from gateway.config.settings import Settings


def lookup_wait_s(defaults: Limits) -> float:
    """Return how long a request waits for its key to be looked up: as long as for its admission, where it waits for
    that."""
    return defaults.admission_wait_ms / 1000 or defaults.postgres_timeout_s


def engine_settings(defaults: Limits, spool_folder: Path | None = None) -> EngineSettings:
    """Return the engine's bounds from the configuration's."""
    return EngineSettings(
        holds=HoldSettings(
            batch_items=defaults.batch_items,
            max_unsettled=defaults.max_unsettled,
            redis_timeout_s=defaults.redis_timeout_ms / 1000,
            settle_timeout_s=defaults.settle_timeout_ms / 1000,
            ledger_timeout_s=defaults.postgres_timeout_s,
            admission_wait_s=defaults.admission_wait_ms / 1000,
            elastic_millionths=parse_share(defaults.elastic_share),
            elastic_output_tokens=defaults.elastic_output_tokens,
            queue_requests=defaults.admission_queue_requests,
        ),
        cache=CacheSettings(
            entries=defaults.principal_cache_entries,
            fresh_s=defaults.principal_cache_s,
            unknown_entries=defaults.negative_cache_entries,
            unknown_s=defaults.negative_cache_s,
            lookups=max(1, defaults.postgres_pool_size - 1),
            wait_s=lookup_wait_s(defaults),
        ),
        lease_s=defaults.lease_s,
        stall_s=defaults.stall_s,
        expired_hold=defaults.expired_hold,
        default_plan=defaults.default_plan,
        ledger_batch_rows=defaults.ledger_batch_rows,
        ledger_flush_s=defaults.ledger_flush_ms / 1000,
        spool_folder=spool_folder,
    )


def refused_rules(defaults: Limits) -> RefusedRules:
    """Return the bounds of what is kept of refusals, from the configuration's."""
    return RefusedRules(
        per_key=defaults.refusals_per_key,
        keys=defaults.refusals_keys,
        age_s=defaults.refusals_kept_s,
        pending=defaults.refusals_pending,
    )


def make_attempts(settings: Settings, redis: RedisState) -> Attempts:
    """Return what counts wrong keys by address, in Redis for all gateways."""
    defaults = settings.defaults
    window_s = defaults.failed_attempts_window_s
    return Attempts(
        counted_in_redis(redis, window_s),
        Addresses(settings.trusted_proxies),
        AttemptLimits(defaults.failed_attempts, window_s, max(1, defaults.postgres_pool_size - 1)),
        time.monotonic,
        ADDRESSES_MAX,
    )
