"""The `metergate` command.

    root        all commands put together; `main`, the entry point
    serving     up, serve
    init        init: files to edit
    upkeep      migrate, doctor, ledger verify, explain: commands on the database and Redis themselves
    set_aside   ledger set-aside: debits that the ledger could not take; stores  the database of such a command
    connect     how operator commands reach the billing API: over HTTP, or in this process on the stores

What they do is in `gateway.commands.up`, `gateway.commands.doctor` and `billing`; where the stores are in
`gateway.commands.stores`; what a failure says in `gateway.commands.failures`. The commands on the billing API, options
and output are `billing.cli`'s.
"""

from gateway.commands.root import main

__all__ = ["main"]
