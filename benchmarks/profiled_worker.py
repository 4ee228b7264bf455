"""The worker under cProfile: SIGUSR1 begins and ends the profile, which is written to a file at the end.

python -m benchmarks.profiled_worker FILE --fd N --ready-fd M
"""

import cProfile
import signal
import sys

from gateway import app


def main() -> int:
    """The process's entry; what the worker answers."""
    file = sys.argv.pop(1)
    profiler = cProfile.Profile()
    running = False

    def turn(*_: object) -> None:
        nonlocal running
        running = not running
        if running:
            profiler.enable()
        else:
            profiler.disable()

    signal.signal(signal.SIGUSR1, turn)
    code = app.main()
    profiler.dump_stats(file)
    return code


if __name__ == "__main__":
    sys.exit(main())
