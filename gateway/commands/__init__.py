"""The `metergate` command.

    root        all commands put together; `main`, the entry point
    serving     up, serve; up  what they do; first_account, admin_key  what a first start makes; welcome  what it says
    init        init: files to edit; init_folder  what it does
    upkeep      migrate, doctor, ledger verify, explain, reconcile: commands on the database and Redis themselves
    doctor      its findings; checks  of the configuration and the disk; provider_checks, clocks  of other machines
    set_aside   ledger set-aside: debits that the ledger could not take; refused  explain of a refused request
    stores      where the stores are; store_options  those of one command
    connect     how operator commands reach the billing API: over HTTP, or, by direct, in this process on the stores
    failures    what a failure says; misuse  what a wrong environment or file says

The commands on the billing API, options and output are `billing.cli`'s.
"""

from gateway.commands.root import main

__all__ = ["main"]
