"""Cases of a test in turn: as `pytest.mark.parametrize`, but one test with one set of fixtures, which cost far more
than a case does. Each case that fails is named, whatever becomes of the others."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import product
from typing import Any

import pytest

Test = Callable[..., Awaitable[None]]


def in_turn(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Return a decorator that calls a test with each of the cases, which name its arguments as parametrize's do. Of
    several decorators the cases are combined."""
    named = (names,) if isinstance(names, str) else tuple(names)
    table = [dict(zip(named, (case,) if isinstance(names, str) else case, strict=True)) for case in cases]

    def decorate(test: Test) -> Test:
        inner, told, wanted = getattr(test, "__told_in_turn__", (test, [{}], inspect.signature(test)))
        together = [{**one, **other} for one, other in product(told, table)]
        kept = [each for each in wanted.parameters.values() if each.name not in (*named, "subtests")]

        async def told_in_turn(subtests: pytest.Subtests, **fixtures: Any) -> None:
            for case in together:
                with subtests.test(**case):
                    await inner(**fixtures, **case)

        asks = inspect.Parameter("subtests", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = wanted.replace(parameters=[asks, *kept])
        made: Any = told_in_turn
        made.__name__, made.__qualname__, made.__module__ = test.__name__, test.__qualname__, test.__module__
        made.__doc__, made.__signature__ = test.__doc__, signature
        made.__told_in_turn__ = (inner, together, signature)
        return told_in_turn

    return decorate
