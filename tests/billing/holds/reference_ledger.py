"""What Postgres is to the scripts, as a model: rows decided once, corrections numbered, bases for counters."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from billing.quotas import Quota, window_id
from tests.billing.holds.reference_values import Account, Amounts, Correction, Names, Subject, Window_


@dataclass(frozen=True)
class Row:
    """A usage event. A debit that Redis has counted has its epoch and dseq, one that it has not its xseq; both where
    it came by both ways."""

    request: str
    names: Names
    at_ms: int
    amounts: Amounts
    outcome: str = "settled"
    epoch: int | None = None
    dseq: int | None = None
    xseq: int | None = None

    def is_of(self, subject: str) -> bool:
        return subject in (self.names.account, self.names.key)


@dataclass
class LedgerAccount:
    balance: int = 0
    xseq: int = 0
    hyd_epoch: int = -1
    corrections: list[Correction] = field(default_factory=list)


class Ledger:
    """Accounts, usage rows by request, and every version of every subject's quotas (version 1 first)."""

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.accounts = {account: LedgerAccount() for account in owners.values()}
        self.rows: dict[str, Row] = {}
        self.quotas: dict[str, list[tuple[Quota, ...]]] = {subject: [()] for subject in (*owners.values(), *owners)}

    def version(self, subject: str) -> int:
        return len(self.quotas[subject])

    def grant(self, account_id: str, delta: int) -> None:
        account = self.accounts[account_id]
        account.balance += delta
        account.xseq += 1
        account.corrections.append(Correction(account.xseq, delta))

    def write(self, row: Row) -> Row:
        """Insert a debit, once for a request; answers what stands there now."""
        known = self.rows.get(row.request)
        if known is not None:
            if known.dseq is None and row.dseq is not None:
                known = self.rows[row.request] = replace(known, epoch=row.epoch, dseq=row.dseq)
            return known
        account = self.accounts[row.names.account]
        account.balance -= row.amounts.cost
        if row.epoch is None or row.epoch != account.hyd_epoch:
            account.xseq += 1
            row = replace(row, xseq=account.xseq)
            names = row.names
            account.corrections.append(
                Correction(
                    account.xseq,
                    -row.amounts.cost,
                    row.request,
                    names.key,
                    row.at_ms,
                    names.model,
                    names.feature,
                    row.amounts,
                )
            )
        self.rows[row.request] = row
        return row

    def used(self, subject: str, quota: Quota, at: int, rows: Iterable[Row]) -> int:
        """What these rows of a subject used in window `at` of a quota."""
        return sum(
            row.amounts.of(quota.metric)
            for row in rows
            if row.is_of(subject)
            and quota.applies_to(row.names.model, row.names.feature)
            and window_id(quota.window, row.at_ms // 1000) == at
        )

    def _windows(self, subject: str, now_s: int) -> dict[int, Window_]:
        windows = {}
        for quota in self.quotas[subject][-1]:
            at = window_id(quota.window, now_s)
            windows[quota.tag] = Window_(quota, at, False, self.used(subject, quota, at, self.rows.values()), at)
        return windows

    def load_account(self, account_id: str, epoch: int, now_s: int) -> Account:
        account = self.accounts[account_id]
        account.hyd_epoch = max(account.hyd_epoch, epoch)
        return Account(
            account_id,
            epoch,
            self.version(account_id),
            self._windows(account_id, now_s),
            balance=account.balance,
            xseq=account.xseq,
            now_s=now_s,
        )

    def load_key(self, key_id: str, epoch: int, now_s: int) -> Subject:
        return Subject(key_id, epoch, self.version(key_id), self._windows(key_id, now_s))

    def corrections_after(self, account_id: str, xseq: int, tags: Iterable[Quota]) -> list[Correction]:
        """With the tags of those of the quotas that apply."""
        quotas = tuple(tags)
        found = []
        for row in self.accounts[account_id].corrections:
            if row.xseq > xseq:
                applying = frozenset(
                    quota.tag
                    for quota in quotas
                    if row.request is not None and quota.applies_to(row.model, row.feature)
                )
                found.append(replace(row, account_tags=applying, key_tags=applying))
        return found

    def before(self, account_id: str, epoch: int, dseq: int, xseq: int) -> list[Row]:
        """Rows that Redis had counted at debit `dseq` of `epoch` and correction `xseq`."""
        return [
            row
            for row in self.rows.values()
            if row.names.account == account_id
            and (
                row.dseq <= dseq
                if row.dseq is not None and row.epoch == epoch
                else row.xseq is None or row.xseq <= xseq
            )
        ]
