"""Become another program that ends when its parent ends, perhaps as another user.

Run as a script, by path, on the standard library alone (`python -I -S launch.py ...`): it stands between our process
and a server, in place of `preexec_fn`, which is unsafe beside threads, and of Popen's `user=`, which uvloop lacks.

    launch.py PARENT_PID SIGNAL UID:GID|- PROGRAM [ARGUMENT ...]

Invariant kept here: on Linux nothing that we start outlives the process that started it, even when that one is killed.
Elsewhere a server whose parent was killed runs on, and the next start finds and stops it (`process.stop_orphans`).
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def signal_when_parent_ends(parent_pid: int, signal_number: int) -> bool:
    """Ask the kernel to send this process `signal_number` when its parent ends; True where it can do so (Linux).

    Exits at once (code 1) when `parent_pid` is not the parent any more. By parent the kernel means (prctl(2),
    PR_SET_PDEATHSIG) the thread that started this process: start children from a thread that lives as long as its
    process. The request is lost when the process changes its user, and kept over exec: change the user first.
    """
    kernel_can = sys.platform == "linux"
    if kernel_can and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)
    return kernel_can


def _become(parent_pid: str, signal_number: str, user: str, *command: str) -> None:
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    signal_when_parent_ends(int(parent_pid), int(signal_number))
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _become(*sys.argv[1:])
