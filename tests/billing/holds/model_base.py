"""The scripts, the reference and a ledger side by side, and how what hypothesis draws is fitted to their state.

model_base      this: the three, and inputs that fit
model_checks    what must hold after every step
model_traffic   what happens all day: requests, settlements, grants, corrections, the clock
model_machine   that, and what happens less often: quotas, expiry, losses, epochs
"""

import secrets
from dataclasses import replace

from hypothesis.stateful import RuleBasedStateMachine

from billing.money import MAX_NANO
from billing.quotas import Metric, Quota, Window, window_id
from tests.billing.holds.model_inputs import ACCOUNTS, OWNERS, SCALES, Ask
from tests.billing.holds.reference import Reference
from tests.billing.holds.reference_ledger import Ledger
from tests.billing.holds.reference_values import Admission, Amounts, Hold, Names
from tests.billing.holds.scripts import Dump, Scripts


class ModelBase(RuleBasedStateMachine):
    """The gateway's side is what a gateway remembers: running requests, and debits that are not in the ledger yet."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self.real = Scripts(redis_url, f"t{secrets.token_hex(4)}", OWNERS)
        self.ref = Reference()
        self.ledger = Ledger(OWNERS)
        self.made = 0
        self.scale = SCALES[0]
        self.requests: dict[str, Hold] = {}
        self.running: list[str] = []
        self.debits: dict[str, Amounts] = {}
        self.outbox: dict[str, tuple[int, int]] = {}
        self.fills: list[tuple[str, str, int, int, int, int, tuple[Quota, ...]]] = []
        self.snapshot: tuple[Reference, Dump] | None = None
        self.went_back = False
        self.granted = dict.fromkeys(ACCOUNTS, 0)

    # Making things

    def new_id(self) -> str:
        self.made += 1
        return f"{self.made:026d}"

    def amount(self, fraction: int, jitter: int) -> int:
        return min(max(self.scale * fraction // 1000 + jitter, 0), MAX_NANO)

    def quota(self, drawn: tuple[Window, Metric, tuple[int, int, int], str | None, str]) -> Quota:
        window, metric, (count, fraction, jitter), model, feature = drawn
        limit = self.amount(fraction, jitter) if metric is Metric.cost else count
        return Quota(window, metric, limit, model, feature)

    def admission(self, ask: Ask) -> Admission:
        account_id = OWNERS[ask.key]
        input_cost, tokens, least = self.aimed(ask, self.amount(*ask.input_cost))
        ask = replace(ask, tokens=tokens, least=least)
        unit = min(self.scale // 10**5 * ask.unit[0] + ask.unit[1], (MAX_NANO - input_cost) // max(ask.least, 1))
        most = min(ask.least + ask.elastic, 2**31 - 1, (MAX_NANO - input_cost) // unit if unit else 2**31 - 1)
        ladder = self.ladder(ask, input_cost, unit * most)
        versions, limits = [], []
        for subject, off in zip((account_id, ask.key), ask.versions, strict=True):
            version = max(self.ledger.version(subject) + off, 1)
            versions.append(version)
            known = self.ledger.quotas[subject][min(version, self.ledger.version(subject)) - 1]
            limits.append(tuple(quota for quota in known if quota.applies_to(ask.model, ask.feature)))
        request_id = self.new_id()
        return Admission(
            request_id,
            Names(account_id, ask.key, ask.model, ask.feature),
            (versions[0], versions[1]),
            ask.credit,
            input_cost,
            unit,
            ask.tokens,
            ask.choices,
            ask.least,
            most,
            self.ref.now_ms + (-1 if ask.late else 500),
            ask.running,
            (limits[0], limits[1]),
            b"expired " + request_id.encode(),
            ladder,
        )

    def ladder(self, ask: Ask, input_cost: int, output_cost: int) -> tuple[tuple[int, int], ...]:
        """Input tokens and cost with further calls, those alone that can be paid at all."""
        rungs, tokens, cost = [], ask.tokens, input_cost
        for more_tokens, fraction in ask.ladder:
            tokens, cost = tokens + more_tokens, cost + self.amount(fraction, 0)
            if cost + output_cost > MAX_NANO:
                break
            rungs.append((tokens, cost))
        return tuple(rungs)

    def aimed(self, ask: Ask, input_cost: int) -> tuple[int, int, int]:
        """Input cost, input tokens and least output, such that they just fit, or just don't."""
        account, key = self.ref.account(OWNERS[ask.key]), self.ref.key(ask.key)
        plain = (input_cost, ask.tokens, ask.least)
        if account is None or key is None:
            return plain
        output_cost = ask.least * (self.scale // 10**5 * ask.unit[0] + ask.unit[1])
        if ask.aim == "balance":
            left = account.balance + ask.credit - self.ref.held(account)
            return min(max(left - output_cost + ask.by, 0), MAX_NANO), ask.tokens, ask.least
        windows = [
            (subject, window)
            for subject in (account, key)
            for window in subject.windows.values()
            if window.quota.applies_to(ask.model, ask.feature) and window.quota.limit < 10**6 * self.scale
        ]
        if ask.aim != "limit" or not windows:
            return plain
        subject, window = windows[ask.tokens % len(windows)]
        quota = window.quota
        at = window_id(quota.window, self.ref.now_of(account))
        left = max(quota.limit - sum(self.ref.used_in(subject, window, at)) + ask.by, 0)
        match quota.metric:
            case Metric.cost:
                return min(max(left - output_cost, 0), MAX_NANO), ask.tokens, ask.least
            case Metric.output_tokens:
                return input_cost, ask.tokens, min(left // ask.choices, 10**5)
            case Metric.requests:
                return plain
            case _:
                return input_cost, min(max(left - ask.choices * ask.least, 0), 2**31), ask.least

    def debit(self, request_id: str, how: str, pick: int) -> Amounts:
        """Return the charge of a request, which is chosen once."""
        if request_id not in self.debits:
            held = self.requests[request_id].amounts if request_id in self.requests else Amounts(1000, 10, 10)
            if how == "less":
                held = Amounts(pick % (held.cost + 1), pick % (held.input + 1), pick % (held.output + 1))
            elif how == "more":
                held = Amounts(held.cost + pick % 1000, held.input + pick % 50, held.output + pick % 50)
            self.debits[request_id] = held
        return self.debits[request_id]

    def names(self, request_id: str) -> Names:
        hold = self.requests.get(request_id)
        return hold.names if hold is not None else Names("acc_one", "key_1", "beta", "llm")
