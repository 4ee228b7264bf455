"""Tools that run at the provider: how often they may, and what their calls add to the input of a request.

A request with u calls is up to u + 1 rounds of its model. What a call adds (the text that a search found, and what the
model wrote to ask for it) is input of every round after it, up to the model's context window. How many calls there may
be is what the request says, or for tools that it leaves open what the gateway grants.

A tool of an unknown type is held as one that runs at the provider: counted by type, logged once, and refused if the
operator wants that. This file owns that its type, which a client writes, is bounded in metrics and log lines.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from billing.pricing import ANY_TOOL
from gateway.dialects.body import BadRequest
from gateway.metrics.registry import OTHER

if TYPE_CHECKING:
    from gateway.dialects.facts import ParsedRequest, Work
    from gateway.metrics.registry import Metrics
    from gateway.proxy.candidates import Candidate


# The type of the searches that a model makes by itself.
SEARCH: Final = "web_search"


def own_searches(parsed: ParsedRequest, route: Candidate) -> int:
    """Return the searches that a model's name brings beside those that the request asks for."""
    return route.online_searches + (route.searches_itself and not parsed.work.one_search)


def most_granted(work: Work, default_tool_calls: int) -> int:
    """Return the most calls that a request may be granted; 0 where it leaves no tool open."""
    if not work.open_tools:
        return 0
    return default_tool_calls if work.most_calls is None else max(1, min(work.most_calls, default_tool_calls))


def uses_with(work: Work, granted: int) -> int:
    """Return the uses of tools with `granted` calls, including those that the request bounds itself."""
    return work.uses + (granted if work.calls_are_shared else granted * len(work.open_tools))


def searches_with(work: Work, granted: int) -> int:
    """Return the charged searches among these."""
    return work.searches + granted * (min(work.open_searches, 1) if work.calls_are_shared else work.open_searches)


def call_tokens(work: Work, own: int, of_row: Mapping[str, int] | None, default: int) -> int:
    """Return the most input tokens that one call adds, whichever of the request's tools it is of. `own` searches are
    the model's; `of_row` is a price row's `tool_call_tokens`."""
    if not of_row:
        return default
    kinds = [*work.open_tools, *work.bounded_tools, *([SEARCH] if own else ())]
    if work.uses and not work.bounded_tools:  # of any type
        return max(of_row.get(ANY_TOOL, default), *of_row.values())
    return max(_tokens_of(kind, of_row, default) for kind in kinds) if kinds else default


def _tokens_of(kind: str, of_row: Mapping[str, int], default: int) -> int:
    """Return what one call of a tool adds: by its type, or the longest beginning of it that the row names (types have
    dates and variants behind a `_`)."""
    named = [name for name in of_row if kind == name or kind.startswith(f"{name}_")]
    return of_row[max(named, key=len)] if named else of_row.get(ANY_TOOL, default)


def tool_types(names: Iterable[str]) -> str:
    """Return types as a message lists them."""
    return ", ".join(f"'{name}'" for name in sorted(set(names)))


def grown_input(first: int, step: int, rounds: int, window: int | None) -> int:
    """Return the total input of all rounds: `first` tokens in the first one, `step` more in each next one, none above
    the window."""
    growing = rounds
    if window is not None and first + step * (rounds - 1) > window:
        growing = 0 if first >= window else min(rounds, -(-(window - first) // step))
    full = 0 if window is None else (rounds - growing) * window
    return growing * first + step * (growing * (growing - 1) // 2) + full


logger = logging.getLogger(__name__)

# Types that one process logs and counts separately; further ones are counted together.
MAX_TYPES: Final = 50
_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


class UnknownTools:
    """Notes the unknown tools of requests; with `refuse` none passes."""

    def __init__(self, metrics: Metrics, *, refuse: bool) -> None:
        self._metrics = metrics
        self._refuse = refuse
        self._logged: set[str] = set()

    def note(self, types: tuple[str, ...]) -> None:
        """Count a request's unknown tools. Raises `BadRequest` where these are refused."""
        for kind in dict.fromkeys(types):
            known = kind in self._logged
            if not known and _TYPE.fullmatch(kind) is not None and len(self._logged) < MAX_TYPES:
                self._logged.add(kind)
                known = True
                then = "refused" if self._refuse else "held as a tool that runs at the provider"
                logger.warning(
                    "a request has a tool of type %s, which this version does not know: it is %s", kind, then
                )
            self._metrics.unknown_tool(kind if known else OTHER)
        if self._refuse:
            raise BadRequest(
                f"Tools of these types are not known here, and none that is unknown is passed on: {tool_types(types)}. "
                "Leave them out.",
                "tools",
            )
