"""Admissions, settlements and voids as items of one script call: what they pack, and what Redis answers to each.

A settlement's reply has its effect when it comes, whether or not anyone still waits, so that a cancelled request loses
nothing; an admission that nobody waits for any more is given back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from billing.holds.redis.connection import RedisAway, RedisError, RedisTimeout
from billing.holds.redis.layout import ADMIT, ITEM, ITEM_OF_USER, OK, RUNG, SETTLE, VANISHED, pack_text
from billing.ledger.debits import Debit, encode_debit

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.holds.decision import Need
    from billing.holds.hold import Hold, Settled
    from billing.holds.partitions import Partition
    from billing.holds.redis.state import Keyspace
    from billing.principals import Principal

ADMIT_CODE: Final = 1
SETTLE_CODE: Final = 2
VOID_CODE: Final = 3
OF_USER: Final = 3
"""Added to a code where the item counts for a user, too."""


class AdmissionTarget:
    """What all holds of one key on one model have in common: the account's and the key's names in Redis, the account's
    partition, the limits, and the `names` that a journal entry carries. `user_key` is the name of the key's user while
    that has limits, and `any_user_key` that of one who may get some."""

    __slots__ = (
        "account_key",
        "any_user_key",
        "key_key",
        "limits",
        "most_running",
        "names",
        "partition",
        "tail",
        "user_key",
        "versions_and_credit",
    )

    def __init__(
        self, principal: Principal, keyspace: Keyspace, partition: Partition, model: str, feature: str, gateway_id: str
    ) -> None:
        account_id, key_id = principal.account_id, principal.key_id
        self.account_key = keyspace.account(account_id)
        self.key_key = keyspace.key(account_id, key_id)
        user_id = principal.user_id
        self.any_user_key = None if user_id is None else keyspace.user(account_id, user_id)
        self.user_key = self.any_user_key if principal.user_quotas else None
        self.partition = partition
        self.limits = principal.limits_for(model, feature)
        self.names = b"".join(map(pack_text, (account_id, key_id, model, feature, gateway_id)))
        self.versions_and_credit = (principal.account_version, principal.key_version, principal.credit_limit_nano)
        self.most_running = (principal.plan.max_parallel_requests or 0, principal.max_parallel_requests or 0)
        self.tail = self.limits.packed + len(self.names).to_bytes(2, "little") + self.names
        """What an admission ends with, but for its payload."""


class AdmitItem:
    """An admission on its way to Redis, packed; Redis refuses to carry it out from `until_ms` (Unix time) on.
    `on_unknown` is called where it may have been carried out or not, and where it was and nobody waits for it."""

    __slots__ = ("account_key", "answer", "body", "id", "key_key", "on_unknown", "target", "user_key")

    def __init__(
        self,
        request_id: str,
        target: AdmissionTarget,
        need: Need,
        payload: bytes,
        until_ms: int,
        answer: asyncio.Future[tuple[list[Any] | RedisError, int]],
        on_unknown: Callable[[AdmitItem], None],
    ) -> None:
        self.id = request_id.encode()
        self.target = target
        self.account_key = target.account_key
        self.key_key = target.key_key
        self.user_key = target.user_key
        self.body = (
            ADMIT.pack(
                *target.versions_and_credit,
                need.input_cost_nano,
                need.unit_nano,
                need.input_tokens,
                need.choices,
                need.least_output,
                need.most_output,
                until_ms,
                *target.most_running,
                len(need.ladder),
            )
            + (b"".join(RUNG.pack(*rung) for rung in need.ladder) if need.ladder else b"")
            + target.tail
            + payload
        )
        self.answer = answer
        self.on_unknown = on_unknown

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(ADMIT_CODE + OF_USER, self.id, account_place, key_place, user_place) + self.body
        return ITEM.pack(ADMIT_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Give the reply to the request that waits for it."""
        if not self.answer.done():
            self.answer.set_result((reply, epoch))
        elif not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)  # the request is gone: the hold that this made is given back
        if isinstance(reply, RedisAway | RedisTimeout):  # other errors did nothing, and the same id may be asked again
            self.on_unknown(self)

    def abandon(self) -> None:
        """Give back its hold, because nobody waits for the answer: now if the answer has come, else in `resolve`."""
        if self.answer.cancel() or self.answer.cancelled():
            return
        reply, _ = self.answer.result()
        if not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)


class SettleItem:
    """A settlement on its way to Redis. `on_reply` gets what came of it, exactly once; `outcome` is for whoever waits.

    It is packed when it is made: a debit that can't be must fail whoever settles it, and not the items beside it.
    """

    __slots__ = ("account_key", "body", "debit", "hold", "id", "key_key", "on_reply", "outcome", "user_key")

    def __init__(
        self,
        hold: Hold,
        debit: Debit,
        outcome: asyncio.Future[Settled],
        on_reply: Callable[[SettleItem, list[Any] | RedisError, int], None],
    ) -> None:
        self.hold = hold
        self.debit = debit
        self.outcome = outcome
        self.on_reply = on_reply
        self.id, self.account_key, self.key_key = hold.id_bytes, hold.target.account_key, hold.target.key_key
        self.user_key = hold.target.user_key
        self.body = SETTLE.pack(debit.charged_nano, debit.input_tokens, debit.output_tokens) + encode_debit(debit)

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(SETTLE_CODE + OF_USER, self.id, account_place, key_place, user_place) + self.body
        return ITEM.pack(SETTLE_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Give the reply to the settlement that waits for it."""
        self.on_reply(self, reply, epoch)


class VoidItem:
    """A void on its way to Redis; `answer` is whether the hold was there to be given back, None when unknown.
    `vanished_in` is the epoch in which Redis had no entry of it at all. `user_key` is the name of the key's user, with
    limits or without: they may have come since."""

    __slots__ = ("account_key", "answer", "id", "key_key", "user_key", "vanished_in")

    def __init__(self, request_id: bytes, account_key: bytes, key_key: bytes, user_key: bytes | None) -> None:
        self.id, self.account_key, self.key_key, self.user_key = request_id, account_key, key_key, user_key
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.vanished_in: int | None = None

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(VOID_CODE + OF_USER, self.id, account_place, key_place, user_place)
        return ITEM.pack(VOID_CODE, self.id, account_place, key_place)

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Answer whether the hold is void by this, None where Redis did not say; note the epoch that lacked it."""
        if reply == VANISHED:
            self.vanished_in = epoch
        if not self.answer.done():
            self.answer.set_result(None if isinstance(reply, RedisError) else reply[0] == 0)
