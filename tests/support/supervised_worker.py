"""A worker for the tests of `gateway.process.supervisor`: answers every connection with its process id and its
environment's.

    python supervised_worker.py HOW --fd N [--hand-fds N M] --ready-fd M
    python supervised_worker.py HOW --adopt-fds N M --ready-fd M

HOW: "serve"; "fail" ends with code 3 before it is ready, and so does "unless:FILE" once there is such a file;
"stubborn" ignores SIGTERM; "slow" needs a moment to end;
"deaf" is stubborn, and the kernel does not tell it of its parent's end. The second one is the process of pages, which a
worker asks for at once; it says that it was told to end, and does not.
"""

import argparse
import mmap
import os
import signal
import socket
import sys
import time

from gateway.embedded.launch import signal_when_parent_ends


def be_the_process_of_pages() -> None:
    signal_when_parent_ends(os.getppid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: print("pages are to end", flush=True))
    print("pages are served", flush=True)
    while True:
        time.sleep(60)


def end_slowly(*_: object) -> None:
    time.sleep(0.3)
    print("ended in its own time", flush=True)
    sys.exit(0)


parser = argparse.ArgumentParser()
parser.add_argument("how")
parser.add_argument("--fd", type=int)
parser.add_argument("--hand-fds", type=int, nargs=2)
parser.add_argument("--adopt-fds", type=int, nargs=2)
parser.add_argument("--ready-fd", type=int, required=True)
given = parser.parse_args()
if given.adopt_fds:
    from gateway.process.pages import SERVING, STATE_BYTES

    mmap.mmap(given.adopt_fds[1], STATE_BYTES)[0] = SERVING
    be_the_process_of_pages()
if given.how == "deaf":
    sys.platform = "darwin"
if given.how in ("stubborn", "deaf"):  # as real workers do; importing it takes most of the start
    from gateway.process.supervisor import SUPERVISOR_PID_VARIABLE, die_with_parent

    die_with_parent(int(os.environ[SUPERVISOR_PID_VARIABLE]))
else:
    signal_when_parent_ends(os.getppid(), signal.SIGKILL)
if given.how == "fail" or (given.how.startswith("unless:") and os.path.exists(given.how.removeprefix("unless:"))):
    sys.exit(3)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))
if given.how == "stubborn":
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
if given.how in ("stubborn", "slow", "deaf"):
    signal.signal(signal.SIGTERM, end_slowly if given.how == "slow" else signal.SIG_IGN)
listener = socket.socket(fileno=given.fd)
listener.setblocking(True)
if given.hand_fds:
    from gateway.process.pages import WAKE

    socket.socket(fileno=given.hand_fds[0]).send(WAKE)
os.write(given.ready_fd, b"1")
os.close(given.ready_fd)
while True:
    connection, _ = listener.accept()
    connection.sendall(f"{os.getpid()} {os.environ.get('COLOUR')}".encode())
    connection.close()
