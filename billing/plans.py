"""Plans: tiers with a monthly price, quotas that are counted per account, and the plan to upgrade to. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from billing.quotas import Quota

# Of an account: it is `past_due` while its plan is not paid.
Status = Literal["active", "past_due", "suspended", "closed"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A tier. `quotas` are counted per account; `models` None allows every model; `included_credit_nano` comes with
    each period that is paid and expires with it, unless `credit_rolls_over`; `markup_scaled` in percent times
    `billing.pricing.FACTOR_SCALE`, and `markups` those of models that have another one here, by name or `prefix*`;
    `admission_queue_s` is how long a request that only running requests keep out waits
    for them; `default_tool_calls` how many calls of tools at the provider a request has that leaves them open, None: as
    the model's entry and the gateway's defaults say.

    `features` are what the plan allows beside: True, False, or so many units in a period; what is not named has no
    rule. `api_access: False` takes the scope `llm:proxy` from every key.
    """

    id: str
    name: str
    price_nano: int
    quotas: tuple[Quota, ...] = ()
    models: tuple[str, ...] | None = None
    max_parallel_requests: int | None = None
    included_credit_nano: int = 0
    users: int | None = None
    markup_scaled: int = 0
    stripe_price: str | None = None
    upgrade_to: str | None = None
    admission_queue_s: int = 0
    credit_rolls_over: bool = False
    features: tuple[tuple[str, bool | int], ...] = ()
    default_tool_calls: int | None = None
    markups: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        markups = (self.markup_scaled, *(markup for _, markup in self.markups))
        if self.price_nano < 0 or self.included_credit_nano < 0 or min(markups) < 0:
            raise ValueError("a plan's price, included credit and markup must not be below zero")
        for name in ("max_parallel_requests", "users", "default_tool_calls"):
            bound = getattr(self, name)
            if bound is not None and bound <= 0:
                raise ValueError(f"{name} must be above zero")
        if self.admission_queue_s < 0 or any(allowed < 0 for _, allowed in self.features):
            raise ValueError("admission_queue_s and units of features must not be below zero")

    def feature(self, name: str) -> bool | int | None:
        """Return what the plan says of a feature: True, False, or units in a period; None: nothing."""
        return dict(self.features).get(name)

    def markup_of(self, model: str) -> int:
        """Return the plan's markup on a model, by the name that customers ask for: that of its name, else of the
        longest prefix of it, else the one for all."""
        if not self.markups:
            return self.markup_scaled
        named = dict(self.markups)
        if model in named:
            return named[model]
        prefixes = [name for name in named if name.endswith("*") and model.startswith(name[:-1])]
        return named[max(prefixes, key=len)] if prefixes else self.markup_scaled


# The feature without which keys of an account can't call models: they lose the scope `permissions.PROXY`.
API_ACCESS: Final = "api_access"
Plans = Mapping[str, Plan]


class LivePlans(Mapping[str, Plan]):
    """The plans in force, by id; holders of this object see at once what `replace` puts in their place."""

    __slots__ = ("_plans",)

    def __init__(self, plans: Plans) -> None:
        self._plans = dict(plans)

    def replace(self, plans: Plans) -> None:
        """Replace all plans."""
        self._plans = dict(plans)

    def __getitem__(self, plan_id: str) -> Plan:
        return self._plans[plan_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)


DEFAULT_PLAN = "free"


def upgrade_cycles(plans: Plans) -> list[tuple[str, ...]]:
    """Return the cycles of `upgrade_to`: each once, beginning at its first plan by name."""
    found = set()
    for plan_id in plans:
        path: list[str] = []
        at: str | None = plan_id
        while at is not None and at in plans and at not in path:
            path.append(at)
            at = plans[at].upgrade_to
        if at == plan_id:
            first = path.index(min(path))
            found.add((*path[first:], *path[:first]))
    return sorted(found)
