"""The `identity` of metergate.yaml: who is let in, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from billing.identity.permissions import Approval

if TYPE_CHECKING:
    from gateway.config.source import Value

_KEYS: Final = ("approval",)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """When somebody who has registered is let in: at once, once the address is verified, or by an operator."""

    approval: Approval = "verified"


def read_identity(at: Value | None) -> IdentityConfig:
    """Return the section; what is left out is as by default."""
    if at is None:
        return IdentityConfig()
    approval = at.section(_KEYS).values.get("approval")
    if approval is None:
        return IdentityConfig()
    chosen = approval.choice(get_args(Approval))
    return IdentityConfig() if chosen is None else IdentityConfig(approval=chosen)  # type: ignore[arg-type]
