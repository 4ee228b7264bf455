"""A process that has imported `metergate` once, and forks for each command: a process of its own without its start.

    python -m tests.support.commander     reads a JSON line, answers with a line that has the exit code of the child

A line says `commands`, the arguments of each, `cwd`, `env`, and `folder`, to write what they said to. Mostly there is
one; several are run one after the other by the same child, and the last one's code is the child's. The child has these,
no stdin, and nothing of this process but its modules. No thread and no event loop has been started before it is forked.
"""

import gc
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import billing
import gateway
from gateway.commands.root import main, make_app
from tests.support.shipped import share_prices, shipped_settings


def serve() -> None:
    """Until stdin ends."""
    _import_all()
    share_prices()
    shipped_settings("")  # and its prices, which takes longer than all else that most commands do
    gc.freeze()  # what is shared with the children stays shared
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _import_all() -> None:
    """Import what commands import when they are called: each child would do so again."""
    for package in (billing, gateway):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    CliRunner().invoke(make_app(), ["doctor", "--help"])  # and what help and errors are written with


def _run(request: dict[str, Any]) -> None:
    """Be the commands: the number of each and `.stdout`, `.stderr` or `.code` name the files that they leave. Ends the
    process."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        for number, arguments in enumerate(request["commands"]):
            at = f"{request['folder']}/{number}"
            for descriptor, name in ((1, f"{at}.stdout"), (2, f"{at}.stderr")):
                opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            sys.argv = ["metergate", *arguments]
            code = main()
            sys.stdout.flush()
            sys.stderr.flush()
            Path(f"{at}.code").write_text(str(code))
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
