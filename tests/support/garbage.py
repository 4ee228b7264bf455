"""What only the garbage collector finds, in a process whose modules and tests it need not look at again and again."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def circles() -> Iterator[Callable[[], list[Any]]]:
    """Gives what of the block's own objects only the garbage collector would free."""
    settle()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def found() -> list[Any]:
        gc.collect()
        return gc.garbage

    try:
        yield found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def settle() -> None:
    """Free what is garbage, and have the collector pass over what is left from now on: a look at all of it takes as
    long as a hundred tests do."""
    gc.collect()
    gc.freeze()
