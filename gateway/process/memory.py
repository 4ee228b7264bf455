"""How a worker's process treats large blocks of memory, and threads that work beside its event loop."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

LARGE_BLOCK_BYTES: Final = 1 << 20
SWITCH_S: Final = 0.001
"""How long a thread runs on when another one waits, five times shorter than Python's default: the one that waits is the
event loop, as a rule, while a large body is parsed."""

_M_MMAP_THRESHOLD: Final = -3
"""https://man7.org/linux/man-pages/man3/mallopt.3.html"""


def settle_memory_and_threads() -> None:
    """Have large blocks, which are bodies, mapped each for itself: they grow without a copy, and go back to the system
    when they are freed. glibc stops doing so after the first of them, and a heap that was full of them stays large.
    Other C libraries are left as they are."""
    sys.setswitchinterval(SWITCH_S)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
