"""The `metergate` command.

    root        all commands put together; `main`, the entry point
    serving     up, serve
    stores      migrate, ledger verify, explain, doctor: commands on the database and Redis themselves
    connect     how operator commands reach the billing API: over HTTP, or in this process on the stores
    places      where the stores are: given, those of a running `up`, or started for the length of a command
    failures    what each layer's exceptions say to a person, and the exit code

The commands on the billing API, options and output are `billing.cli`'s.
"""

from gateway.cli.root import main

__all__ = ["main"]
