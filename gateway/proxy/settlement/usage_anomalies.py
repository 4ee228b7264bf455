"""Anomalies of a provider's report of usage: counts that are all zero, and what this version can't place.

This file owns how they are reported. Each is counted (`metergate_usage_anomalies_total`); the first of its kind,
provider and value is logged, and no more than `MAX_LOGGED` lines are. What is charged is not decided here:
`billing.pricing` has the dearest known price for a tier, speed or region that a row does not know, and readers of
usage take the larger reading of counts that contradict each other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gateway.dialects.declared import DECLARED

if TYPE_CHECKING:
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Reported
    from gateway.metrics.registry import Metrics
    from gateway.proxy.candidates import Candidate

logger = logging.getLogger(__name__)

# Lines that one process logs; providers write the values, so that they are bounded.
MAX_LOGGED: Final = 200
MAX_VALUE_CHARS: Final = 64
_USUAL: Final = frozenset({None, "default", "standard"})


_WORDS: Final = {
    "service_tier": "names the service tier %r, which its price row does not know: the dearest that it does is charged",
    "speed": "names the speed %r, which its price row does not know: the dearest that it does is charged",
    "region": "names the region %r, which its price row does not know: the dearest that it does is charged",
    "field": "counts %r, which this version does not meter: the totals are charged",
    "model": "is of %r, which is no model that its entry is answered by: the dearest of those is charged",
    "total": "contradicts itself in %r: the larger reading is charged",
}


def believed(route: Candidate, reported: Reported | None) -> Reported | None:
    """Return a report; None where it counts nothing at all, and zeros of this route are not to be trusted."""
    if reported is None or not reported.counts_nothing or route.provider.zero_usage == "trust" or route.costs_nothing:
        return reported
    return None


class UsageAnomalies:
    """Counts and logs the anomalies of reports."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._logged: set[tuple[str, str, str]] = set()

    def note(self, route: Candidate, reported: Reported) -> None:
        """Count and log the anomalies of a report that is charged: conditions that the model's row does not know, and
        what the reader of its usage can't place."""
        usual = reported.service_tier in _USUAL and reported.speed in _USUAL and not route.is_router
        if usual and not (reported.region or reported.anomalies):
            return
        declared = DECLARED.get(route.provider.kind)
        explained = () if declared is None else declared.explained_anomalies
        found = [each for each in reported.anomalies if each not in explained]
        if route.is_router and route.named(reported.model) is None:
            found.append(("model", reported.model or ""))
        if route.rates is not None:
            row = route.rates.row
            unknown = row.unknown(reported.service_tier, reported.speed, reported.region)
            regional = any("region" in variant.when for variant in row.variants)
            found += [each for each in unknown if regional or each not in explained]
        for kind, value in found:
            self._metrics.usage_anomaly(route.provider.name, kind)
            provider, shown = route.provider.name, value[:MAX_VALUE_CHARS]
            if (provider, kind, shown) not in self._logged and len(self._logged) < MAX_LOGGED:
                self._logged.add((provider, kind, shown))
                logger.warning("the usage of %s, %s, " + _WORDS[kind], provider, route.model, shown)


def says_nothing(tap: Tap) -> bool:
    """Return whether a stream has neither output nor a count of anything."""
    return (tap.reported is None or tap.reported.counts_nothing) and not tap.began_output
