"""What a worker is made of as it starts."""

import subprocess
import sys

SELDOM = {"cryptography", "jinja2", "jwt", "markdown_it", "prometheus_client", "stripe", "typer"}


def test_a_worker_imports_nothing_that_most_workers_never_ask_for():
    code = "import sys, gateway.app; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert SELDOM.isdisjoint(imported)
