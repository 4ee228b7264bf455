"""A gateway worker whose wall clock goes back an hour on SIGUSR1, and forth again on the next one.

Everything else is `gateway.app`.
"""

import itertools
import signal
import sys
import time

BACK_S = 3600.0

_real = time.time
_offset_s = 0.0
_offsets = itertools.cycle((-BACK_S, 0.0))


def _shifted() -> float:
    return _real() + _offset_s


def _turn(*_: object) -> None:
    global _offset_s
    _offset_s = next(_offsets)


time.time = _shifted
signal.signal(signal.SIGUSR1, _turn)

from gateway.app import main  # noqa: E402  (after the clock)

if __name__ == "__main__":
    sys.exit(main())
