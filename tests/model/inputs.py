"""What hypothesis draws for the model of the scripts: amounts that are small, awkward or at the bound, quotas, asks."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from billing.money import MAX_NANO
from billing.quotas import Metric, Window

OWNERS = {"key_1": "acc_one", "key_2": "acc_one", "key_3": "acc_two"}
ACCOUNTS = ("acc_one", "acc_two")
SUBJECTS = (*ACCOUNTS, *OWNERS)
MODELS = ("alpha-1", "alpha-2", "beta")
FEATURES = ("llm", "image")
# What a fraction of 1000 of an amount is: small change, where tostring loses digits, and the bound of all amounts.
SCALES = (3000, 10**14, MAX_NANO)
# What an elastic hold may take: millionths of what is free, and output tokens.
SHARES = ((250_000, 4096), (250_000, 5), (333_333, 20), (1, 0), (1_000_000, 0))
# Some minutes before March 2026 begins, on a Saturday.
START_S = 1_772_323_100

fractions = st.one_of(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000))
jitters = st.integers(-2, 2)
picks = st.integers(0, 10**6)
limits = st.tuples(st.sampled_from((1, 8, 20, 400, 1500, 3000, 10**6, MAX_NANO)), st.integers(0, 3000), jitters)
quotas = st.tuples(
    st.sampled_from(Window),
    st.sampled_from(Metric),
    limits,
    st.sampled_from((None, None, "alpha-1", "alpha*", "beta")),
    st.sampled_from((*FEATURES[:1], *FEATURES)),
)


@dataclass(frozen=True)
class Ask:
    """An admission that is yet to be fitted to the state."""

    key: str
    model: str
    feature: str
    input_cost: tuple[int, int]
    unit: tuple[int, int]
    tokens: int
    choices: int
    least: int
    elastic: int
    credit: int
    late: bool
    versions: tuple[int, int]
    running: tuple[int, int]
    aim: str
    by: int
    # What each further call adds: input tokens, and cost in fractions of 1000.
    ladder: tuple[tuple[int, int], ...] = ()


CHOICES = {
    "key": tuple(OWNERS),
    "model": MODELS,
    "feature": (*FEATURES[:1], *FEATURES),
    "choices": (1, 2, 3),
    "elastic": (0, 0, 5, 5, 20, 100, 2**31 - 1),
    "credit": (0, 0, 0, 500),
    "late": (False,) * 30 + (True,),
    "versions": ((0, 0),) * 30 + ((-1, 0), (0, -1), (1, 0), (0, 1)),
    "aim": ("", "", "", "balance", "limit", "limit"),
    "by": (-1, 0, 1, 1, 10, 50),
}
RUNNING = ((0, 0, 0, 0, 1, 3), (0, 0, 0, 0, 1, 2))


def chosen(drawn: bytes) -> dict[str, Any]:
    """What an ask has of each list, by a byte for each: a draw takes longer than all that is made of it."""
    made = {name: of[byte % len(of)] for byte, (name, of) in zip(drawn, CHOICES.items(), strict=False)}
    made["running"] = tuple(of[byte % len(of)] for byte, of in zip(drawn[len(CHOICES) :], RUNNING, strict=True))
    return made


asks = st.builds(
    lambda lists, input_cost, unit, tokens, least, ladder: Ask(
        **chosen(lists), input_cost=input_cost, unit=unit, tokens=tokens, least=least, ladder=tuple(ladder)
    ),
    st.binary(min_size=len(CHOICES) + len(RUNNING), max_size=len(CHOICES) + len(RUNNING)),
    st.tuples(fractions, jitters),
    st.tuples(st.integers(0, 100), st.integers(0, 9)),
    st.integers(0, 300),
    st.integers(0, 20),
    st.one_of(st.just([]), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=4)),
)
endings = st.tuples(
    st.sampled_from(("settle", "settle", "void")), picks, st.sampled_from(("less", "equal", "more")), picks
)
# Some milliseconds, or to around the end of a window.
forward_steps = st.one_of(
    st.integers(0, 3000).map(lambda ms: ("ms", ms)),
    st.tuples(st.sampled_from(Window), st.integers(-1500, 1500)),
)
# Mostly by what an account's windows stand still for; else by more.
back_steps = st.one_of(st.integers(1, 3_700_000), st.integers(1, 3_700_000), st.integers(1, 3 * 86_400_000))
steps = st.one_of(forward_steps, forward_steps, forward_steps, back_steps.map(lambda ms: ("back", ms)))
