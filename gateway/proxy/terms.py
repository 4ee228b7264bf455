"""What is the same for all requests of a key on a model: made with the first of them, kept with the principal. Pure.

This file owns how long that holds. A principal is made anew when its account, key or plan changes, and what was kept
with it goes. A route is made anew when another price row or configuration is in force: terms are those of one route,
and are made again for another. That the key may use the model at all is decided before terms are made.
"""

from typing import Final

import msgspec

from billing.principals import MAX_KEPT, Principal
from gateway.dialects.base import ParsedRequest
from gateway.proxy.estimate import EstimateRules, Plain, markup_of
from gateway.proxy.routing import Route

TERMS: Final = "terms"
"""In the place of a gateway's id, among what is kept with a principal."""


class Terms:
    """A key's terms on a route. `tags` as the ledger keeps them, `markup_scaled` the markup that applies; `plain`
    bounds plain requests, None where the route has none; `uncharged` are debits of holds that are not charged when
    their gateway dies, encoded, by endpoint and whether the answer is a stream."""

    __slots__ = ("markup_scaled", "plain", "route", "tags", "uncharged")

    def __init__(self, principal: Principal, route: Route, rules: EstimateRules) -> None:
        self.route = route
        self.tags = tags_of(principal)
        self.markup_scaled = markup_of(route, principal.plan.markup_scaled)
        self.plain = Plain.of(route, self.markup_scaled, rules)
        self.uncharged: dict[tuple[str, bool], bytes] = {}

    def passes_as_it_is(self, parsed: ParsedRequest, route: Route, field: str) -> bool:
        """Whether nothing of a whole answer's request is changed for a provider that takes a maximum in `field`: see
        `outgoing_body`, which changes less often than this says."""
        most, plain = parsed.max_output_tokens, self.plain
        return (
            plain is not None
            and route is self.route
            and not parsed.stream
            and most is not None
            and most <= plain.window
            and field in parsed.max_fields
            and route.model == parsed.model
        )


def kept_terms(principal: Principal, name: str, feature: str, route: Route) -> Terms | None:
    """The terms of a principal on the route that a model's name leads to, where they were made before."""
    terms: Terms | None = principal.kept.get((TERMS, name, feature))
    return terms if terms is not None and terms.route is route else None


def keep_terms(principal: Principal, name: str, feature: str, terms: Terms) -> Terms:
    """The same terms, kept for further requests; of other names at most `MAX_KEPT` are."""
    if len(principal.kept) >= MAX_KEPT:
        principal.kept.clear()
    principal.kept[TERMS, name, feature] = terms
    return terms


def tags_of(principal: Principal) -> str | None:
    """A key's tags as the ledger keeps them."""
    return msgspec.json.encode(dict(principal.tags)).decode() if principal.tags else None
