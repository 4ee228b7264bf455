"""Runs a module under callgrind, counting nothing until it is told to: a process of its own.

    python -m benchmarks.instructed FOLDER MODULE ...

The process becomes valgrind's: its id, its sockets and its signals stay.
"""

import os
import sys


def main() -> None:
    """The process's entry; it never returns."""
    folder, *module = sys.argv[1:]
    out = f"--callgrind-out-file={folder}/callgrind.%p"
    valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", out)
    os.execvp(valgrind[0], [*valgrind, sys.executable, "-m", *module])  # noqa: S606 - our own arguments, no shell


if __name__ == "__main__":
    main()
