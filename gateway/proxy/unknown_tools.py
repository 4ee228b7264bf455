"""Tools of unknown types: counted by type, and logged once each; refused if the operator wants that.

Such a tool is held as one that runs at the provider. This file owns that its type, which a client writes, is bounded in
metrics and log lines.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from gateway.dialects.exceptions import BadRequest
from gateway.metrics.folder import OTHER
from gateway.proxy.tool_rounds import tool_types

if TYPE_CHECKING:
    from gateway.metrics.registry import Metrics

logger = logging.getLogger(__name__)

MAX_TYPES: Final = 50
"""Types that one process logs and counts separately; further ones are counted together."""
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
