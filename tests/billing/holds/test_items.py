"""What the hot script reads of admissions and settlements."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from billing.holds.model import AdmissionTarget, Need, pack_admission, pack_settlement
from billing.holds.redis import layout
from billing.ledger.debits import decode_debit
from tests.support.holds import PRINCIPAL, debit

PARTITION: Any = SimpleNamespace(number=0)
TARGET = AdmissionTarget(PRINCIPAL, layout.Keyspace(), PARTITION, "demo", "llm", "gateway")


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=3),
    st.binary(max_size=40),
)
def test_an_admission_is_its_amounts_its_ladder_its_target_and_its_debit(
    unit_nano: int, until_ms: int, steps: list[tuple[int, int]], expired: bytes
) -> None:
    ladder = tuple(
        (10 + sum(t for t, _ in steps[: at + 1]), 100 + sum(c for _, c in steps[: at + 1])) for at in range(len(steps))
    )
    need = Need(10, 100, unit_nano, 2, 1, 20, ladder)
    packed = pack_admission(TARGET, need, until_ms, expired)
    head, rest = packed[: layout.ADMIT.size], packed[layout.ADMIT.size :]
    assert layout.ADMIT.unpack(head) == (1, 1, 0, 100, unit_nano, 10, 2, 1, 20, until_ms, 0, 0, len(ladder))
    rungs = [layout.RUNG.unpack_from(rest, at * layout.RUNG.size) for at in range(len(ladder))]
    assert tuple(rungs) == ladder
    assert rest[len(ladder) * layout.RUNG.size :] == TARGET.tail + expired


def test_a_settlement_is_its_amounts_and_its_debit() -> None:
    given_debit = debit("01", PRINCIPAL, charged_nano=7, input_tokens=3, output_tokens=2)
    packed = pack_settlement(given_debit)
    assert layout.SETTLE.unpack_from(packed) == (7, 3, 2)
    assert decode_debit(packed[layout.SETTLE.size :]) == given_debit
