"""What must hold after every step of the model.

Every reply is the reference's, and so is every value in Redis. Beside that, from what Redis itself shows: no money is
made or lost, no admission takes a window above its limit or a balance below its credit, and no hold ends twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import reject

from billing.holds.redis.layout import SETTLED, AccountState, Counter, Entry
from billing.quotas import Quota, window_id
from tests.billing.holds.model_base import ModelBase
from tests.billing.holds.model_inputs import ACCOUNTS, OWNERS
from tests.billing.holds.reference import OK
from tests.billing.holds.reference_ledger import Row
from tests.billing.holds.reference_values import Account, Admission, Amounts, Hold, Names, Settlement, Void
from tests.billing.holds.scripts import unpacked

NOTHING = Amounts(requests=0)


@dataclass
class Ceiling:
    """The most that a window may show: its limit at the last admission, and what was added since without one."""

    quota: Quota
    most: int


class Checked(ModelBase):
    """`check` is called after every step."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self.ceilings: dict[tuple[str, int, int], Ceiling] = {}
        """By subject, tag and window id."""
        self.floors: dict[str, int] = {}
        """The least that may be available to an account: what its last admission left it, as its ceilings."""
        self.ended: set[str] = set()
        """Requests that have been settled or voided in this epoch."""

    def same(self, name: str, *arguments: Any, real: tuple[Any, ...] | None = None) -> Any:
        """Call the script and the reference: one reply. A story that leaves the bound of all amounts ends there."""
        answer = getattr(self.real, name)(*(arguments if real is None else real))
        expected = getattr(self.ref, name)(*arguments)
        if not self.ref.exact:
            reject()
        assert answer == expected, f"{name}: Redis says {answer}, the reference {expected}"
        return expected

    # What was promised

    def promised(self, item: Admission | Settlement | Void, reply: list[Any]) -> None:
        """Note what a reply of the hot path means for what may come after it."""
        if reply[0] != OK:
            return
        if not isinstance(item, Admission):
            assert item.id not in self.ended, "a hold has ended twice"
            self.ended.add(item.id)
            if isinstance(item, Settlement):
                hold = self.requests[item.id]
                self.exceeded(hold.names, hold.at_ms, item.amounts, hold.amounts)
            return
        assert reply[3] >= 0
        self.floors[item.names.account] = -item.credit
        for subject, limits in zip((item.names.account, item.names.key), item.limits, strict=True):
            for quota in limits:
                at = window_id(quota.window, reply[2] // 1000)
                self.ceilings[subject, quota.tag, at] = Ceiling(quota, quota.limit)

    def exceeded(self, names: Names, at_ms: int, spent: Amounts, held: Amounts = NOTHING) -> None:
        """More was spent than an admission has weighed: usage above its hold, or usage that had none."""
        if names.account in self.floors:
            self.floors[names.account] -= max(spent.cost - held.cost, 0)
        for (subject, _, at), ceiling in self.ceilings.items():
            quota = ceiling.quota
            if (
                subject in (names.account, names.key)
                and quota.applies_to(names.model, names.feature)
                and window_id(quota.window, at_ms // 1000) == at
            ):
                ceiling.most += max(spent.of(quota.metric) - held.of(quota.metric), 0)

    def forget_promises(self) -> None:
        """Everything is loaded again from the ledger, which refuses nothing."""
        self.ceilings.clear()
        self.floors.clear()
        self.ended.clear()

    # What must be so

    def check(self) -> None:
        ref, dump = self.ref, self.real.dump()
        assert dump.meta[b"epoch"] == str(ref.epoch).encode()
        assert (dump.meta[b"open"] == b"1") == ref.open
        entries = {key.decode(): unpacked(raw) for key, raw in dump.journal.items()}
        assert entries == {request_id: hold.entry() for request_id, hold in ref.journal.items()}
        for account_id in ACCOUNTS:
            account, state = ref.account(account_id), dump.account(account_id)
            assert (account is None) == (state is None or state.epoch != ref.epoch)
            if account is None or state is None:
                continue
            holds = ref.holds_of(account)
            counted = (state.balance_nano, state.held_nano, state.running, state.dseq, state.xseq, state.hold_version)
            assert counted == (
                *(account.balance, sum(hold.amounts.cost for hold in holds), len(holds)),
                *(account.dseq, account.xseq, account.hold_version),
            )
            assert (state.principal_version, state.now_s) == (account.version, account.now_s)
            assert state.counters == ref.counters(account)
            self.check_ceilings(account_id, state.counters)
            if account_id in self.floors:
                assert state.balance_nano - state.held_nano >= self.floors[account_id]
            self.check_ledger(account, state, entries)
        for key_id in OWNERS:
            key, seen = ref.key(key_id), dump.key(key_id)
            assert (key is None) == (seen is None or seen.epoch != ref.epoch)
            if key is not None and seen is not None:
                assert (seen.principal_version, seen.running) == (key.version, len(ref.holds_of(key)))
                assert seen.counters == ref.counters(key)
                self.check_ceilings(key_id, seen.counters)

    def check_ceilings(self, subject: str, counters: Iterable[Counter]) -> None:
        """No window is above its limit but by what was reported above a hold or came without one. A window that has
        passed, and a counter that is counted anew (its tag is marked), promise nothing."""
        shown = {(counter.tag, counter.window_id): counter.used + counter.held for counter in counters}
        for key in [key for key in self.ceilings if key[0] == subject]:
            used = shown.get(key[1:])
            if used is None:
                del self.ceilings[key]
            else:
                assert used <= self.ceilings[key].most

    def check_ledger(self, account: Account, state: AccountState, entries: dict[str, Entry]) -> None:
        """I3: what was granted is what is available, held and spent, where grants and debits are those of the ledger
        that Redis was told of, and the debits that the ledger was not; so are the windows."""
        settled = {
            request_id: hold
            for request_id, hold in self.ref.journal.items()
            if hold.state == SETTLED and hold.epoch == self.ref.epoch and hold.names.account == account.id
        }
        waiting = {request_id: hold for request_id, hold in settled.items() if request_id not in self.ledger.rows}
        corrections = self.ledger.accounts[account.id].corrections
        untold = {row.request for row in corrections if row.xseq > account.xseq and row.request not in settled}
        told = [
            row for row in self.ledger.rows.values() if row.names.account == account.id and row.request not in untold
        ]
        told += [Row("", hold.names, self.requests[name].at_ms, hold.amounts) for name, hold in waiting.items()]
        granted = sum(row.delta for row in corrections if row.request is None and row.xseq <= account.xseq)
        available = state.balance_nano - state.held_nano
        held = sum(
            entry.cost_nano
            for entry in entries.values()
            if entry.state != SETTLED and entry.epoch == self.ref.epoch and entry.account_id == account.id
        )
        assert granted == available + held + sum(row.amounts.cost for row in told)
        if not self.went_back:  # what was admitted in windows that have not begun is outside the promise
            self.check_windows(account, told)

    def check_windows(self, account: Account, told: list[Row]) -> None:
        """Each counter of an account and its keys is what these debits and the open holds have used."""
        keys = (self.ref.key(key_id) for key_id, owner in OWNERS.items() if owner == account.id)
        for subject in (account, *(key for key in keys if key is not None)):
            holds = self.ref.holds_of(subject)
            for window in subject.windows.values():
                if not window.pending:
                    at = window.window_id
                    used = self.ledger.used(subject.id, window.quota, at, told)
                    used += sum(
                        hold.amounts.of(window.quota.metric) for hold in holds if _counts(hold, window.quota, at)
                    )
                    assert sum(self.ref.used_in(subject, window, at)) == used


def _counts(hold: Hold, quota: Quota, at: int) -> bool:
    """Whether a hold counts in window `at` of a quota."""
    applies = quota.applies_to(hold.names.model, hold.names.feature)
    return applies and window_id(quota.window, hold.at_ms // 1000) == at
