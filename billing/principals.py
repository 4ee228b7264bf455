"""Principals: the account, user and key behind a request, and the limits that apply to it; callers of the API. Pure.

It defines the order and packing of limits: what `admit` gets is packed here, and a refused counter in its reply is an
index into the same limits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.permissions import SCOPES, Role
from billing.quotas import Quota, Window, names_model

if TYPE_CHECKING:
    from billing.plans import Plan, Status

Subject = Literal["key", "plan", "account", "user"]
CallerKind = Literal["nobody", "key", "person", "service", "admin"]

# What the id begins with that stands in place of a key's where another service meters: its name follows. No id of a key
# has a colon. It has no quotas, and version 1 for good.
SERVICE_KEY: Final = "service:"
# Models and features for which something is kept with a principal.
MAX_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Limit:
    """One counter's limit: the tightest of the quotas that share it, and whose quota that is."""

    subject: Subject
    quota: Quota


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """The limits of one principal on one model, packed for `admit`: a count, then tag (u32) and limit (i64) each. Those
    of the user are packed where the user has quotas at all."""

    account: tuple[Limit, ...]
    key: tuple[Limit, ...]
    packed: bytes
    minute: tuple[tuple[str, int], ...]
    """Metric and limit of those with a minute window, account, key, user: `admit` answers what they have used."""
    user: tuple[Limit, ...] = ()

    @property
    def all(self) -> frozenset[Limit]:
        """Return the limits of every subject."""
        return frozenset(self.account + self.key + self.user)


@dataclass(frozen=True, slots=True)
class Principal:
    """The account, user and key of a request. Versions are those of the rows in Postgres that this was read from; times
    are Unix seconds. `expires_at_s` is when the key expires, or before that the secret that it was read by, which
    another one has replaced."""

    account_id: str
    account_name: str
    account_version: int
    status: Status
    past_due_since_s: float | None
    credit_limit_nano: int
    account_quotas: tuple[Quota, ...]
    plan: Plan
    key_id: str
    key_version: int
    key_name: str
    key_prefix: str
    user_id: str | None
    scopes: frozenset[str]
    models: tuple[str, ...] | None
    key_quotas: tuple[Quota, ...]
    max_parallel_requests: int | None
    tags: Mapping[str, str]
    created_at_s: float
    expires_at_s: float | None
    revoked_at_s: float | None
    user_quotas: tuple[Quota, ...] = ()
    """Of the user in this account, counted over all of the user's keys in it."""
    default_tool_calls: int | None = None
    """The most calls of tools at the provider for a request that does not bound them; None: as the plan says."""
    kept: dict[tuple[str, ...], Any] = field(default_factory=dict, repr=False, compare=False)
    """A gateway's admission data by model and feature, dropped with the principal."""

    def usable_key(self, now_s: float) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return (self.revoked_at_s is None or now_s < self.revoked_at_s) and (
            self.expires_at_s is None or now_s < self.expires_at_s
        )

    @property
    def limited(self) -> bool:
        """Return whether the key itself has limits: models, quotas, a bound of requests at once, or an expiry."""
        limits = self.models, self.max_parallel_requests, self.expires_at_s
        return bool(self.key_quotas) or any(limit is not None for limit in limits)

    def may_pay(self, now_s: float, grace_s: float) -> bool:
        """Return whether the account's status lets it spend: active, or past due within its grace."""
        if self.status == "past_due":
            return self.past_due_since_s is not None and now_s < self.past_due_since_s + grace_s
        return self.status == "active"

    def allows_model(self, model: str) -> bool:
        """Return whether both the key and the plan allow this resolved model entry; names may end in `*`."""
        if self.models is None and self.plan.models is None:
            return True
        return names_model(self.models, model) and names_model(self.plan.models, model)

    def limits_for(self, model: str, feature: str) -> QuotaLimits:
        """Return the limits on this model."""
        account = _tightest(
            [("plan", quota) for quota in self.plan.quotas if quota.applies_to(model, feature)]
            + [("account", quota) for quota in self.account_quotas if quota.applies_to(model, feature)]
        )
        key = _tightest([("key", quota) for quota in self.key_quotas if quota.applies_to(model, feature)])
        user = _tightest([("user", quota) for quota in self.user_quotas if quota.applies_to(model, feature)])
        minutes = [limit.quota for limit in account + key + user if limit.quota.window is Window.minute]
        minute = tuple((quota.metric.name, quota.limit) for quota in minutes)
        packed = pack_limits(account) + pack_limits(key) + (pack_limits(user) if self.user_quotas else b"")
        return QuotaLimits(account, key, packed, minute, user)

    def every_limit(self) -> list[Limit]:
        """Return every quota that applies to some request of this principal, tightest or not."""
        return (
            [Limit("key", quota) for quota in self.key_quotas]
            + [Limit("user", quota) for quota in self.user_quotas]
            + [Limit("plan", quota) for quota in self.plan.quotas]
            + [Limit("account", quota) for quota in self.account_quotas]
        )


def _tightest(limits: list[tuple[Subject, Quota]]) -> tuple[Limit, ...]:
    found: dict[int, Limit] = {}
    for subject, quota in limits:
        known = found.get(quota.tag)
        if known is None or quota.limit < known.quota.limit:
            found[quota.tag] = Limit(subject, quota)
    return tuple(found.values())


def pack_limits(limits: tuple[Limit, ...]) -> bytes:
    """Pack a count (u8), then tag (u32) and limit (i64) of each, little-endian, as the scripts unpack them."""
    flat = [number for limit in limits for number in (limit.quota.tag, limit.quota.limit)]
    return struct.pack("<B" + "Iq" * len(limits), len(limits), *flat)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `account_id` is whose data a call is about: that of an API key, or of the organization that a person's
    token or `X-Organization-Id` names; None where there is none. `scopes` are what the caller may do there.

    `id` is that of the key or user, or the service's name. `operator` is whether a person may do what the admin key
    may. `session_id` and `token_id` (the `jti`) are of a person's token. `hint` ends the refusals of a person
    who has to do something first. `narrowed` are the scopes that the token is limited to, whatever the role allows.
    """

    kind: CallerKind
    id: str = ""
    account_id: str | None = None
    user_id: str | None = None
    org_id: str | None = None
    role: Role | None = None
    scopes: frozenset[str] = frozenset()
    operator: bool = False
    email: str | None = None
    verified: bool = False
    session_id: str | None = None
    token_id: str | None = None
    hint: str = ""
    narrowed: frozenset[str] | None = None
    principal: Principal | None = None

    @property
    def whole(self) -> bool:
        """Return whether the token may do all that the person may, but for what is operators'. One that was narrowed
        must not be able to become more, by another password or another address."""
        return self.narrowed is None or self.narrowed >= SCOPES.keys()

    @property
    def is_operator(self) -> bool:
        """Return whether it is the operator, or a person or program of theirs, and no customer."""
        return self.operator or self.kind in ("admin", "service")

    @property
    def name(self) -> str:
        """Return what the audit log calls the caller."""
        if self.kind in ("nobody", "admin"):
            return self.kind
        return f"{'user' if self.kind == 'person' else self.kind}:{self.id}"


NOBODY = Caller("nobody")
