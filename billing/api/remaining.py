"""What is left now, as Redis counts it: of a principal's quotas, and of an account's balance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from billing.holds.epochs import LostWrites, NotReady
from billing.money import format_usd
from billing.quotas import Metric, Window, window_end_s, window_id
from billing.schemas.quotas import WindowShape
from billing.schemas.usage import BalanceShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from billing.api.services import Services
    from billing.holds.engine import Engine
    from billing.holds.redis.layout import AccountState, Counter, KeyState
    from billing.principals import Limit, Principal


async def live_windows(engine: Engine, principal: Principal) -> list[WindowShape]:
    """Return every quota that applies to some request of a principal, and what is left of each. What Redis has not got
    is loaded from the ledger, as by a request. Raises `StoreError`."""
    account_id, key_id = principal.account_id, principal.key_id if principal.key_quotas else None
    partition, redis, loader = engine.partitions.of(account_id), engine.redis, engine.loader
    epoch = await engine.partitions.ensure(partition)

    def known(state: AccountState | KeyState | None) -> bool:
        return state is not None and state.epoch == epoch

    account, key = await redis.account(account_id), await redis.key(account_id, key_id) if key_id else None
    if not known(account) or (key_id and not known(key)):
        try:
            await loader.install(partition, account_id, key_id)
        except LostWrites as error:
            raise NotReady(str(error)) from error
        account, key = await redis.account(account_id), await redis.key(account_id, key_id) if key_id else None
    used_by_account = _used(account.counters if account else ())
    used_by = {"key": _used(key.counters if key else ())}
    if principal.user_id is not None and principal.user_quotas:
        user = await redis.user(account_id, principal.user_id)
        if not known(user):
            await loader.adopt_user(partition, account_id, principal.user_id)
            user = await redis.user(account_id, principal.user_id)
        used_by["user"] = _used(user.counters if user else ())
    now_s = partition.now_ms() // 1000
    limits = principal.every_limit()
    return [_window_shape(limit, used_by.get(limit.subject, used_by_account), now_s) for limit in limits]


def _used(counters: Iterable[Counter]) -> Mapping[int, Counter]:
    return {counter.tag: counter for counter in counters}


def _window_shape(limit: Limit, used_by_tag: Mapping[int, Counter], now_s: int) -> WindowShape:
    quota = limit.quota
    counter = used_by_tag.get(quota.tag)
    is_current = counter is not None and counter.window_id == window_id(quota.window, now_s)
    used, held = (counter.used, counter.held) if counter is not None and is_current else (0, 0)
    end_s = window_end_s(quota.window, now_s)

    def shown(amount: int) -> int | str:
        return format_usd(amount) if quota.metric is Metric.cost else amount

    return WindowShape(
        subject=limit.subject,
        window=Window(quota.window).name,
        metric=quota.metric.name,
        model=quota.model,
        limit=shown(quota.limit),
        used=shown(used),
        held=shown(held),
        remaining=shown(max(0, quota.limit - used - held)),
        resets_at=None if end_s is None else datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


async def balance_of(services: Services, account_id: str) -> BalanceShape:
    """Return the balance of an account. Raises `AccountNotFound`."""
    account = await services.accounts.get(account_id)
    live, expiry = await services.live_balance(account), await services.lots.next_expiry(account_id)
    return BalanceShape.of_account(account, live, services.credits_per_usd, expiry)
