"""What follows from the settings for what is kept of refused requests and wrong keys."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from billing.addresses import Addresses
from billing.attempts import ADDRESSES_MAX, AttemptLimits, Attempts, counted_in_redis
from billing.refused import RefusedRules

if TYPE_CHECKING:
    from billing.holds.redis.state import RedisState
    from gateway.config.defaults import Limits
    from gateway.config.settings import Settings


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
