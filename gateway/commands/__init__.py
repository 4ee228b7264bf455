"""The `metergate` command.

    root        all commands put together; `main`, the entry point
    serving     up, serve; up  what they do; first_start  the admin key and the account that a first start makes, and
                what is printed
    init        init: files to edit
    upkeep      migrate, doctor, explain, reconcile: commands on the database and Redis themselves
    ledger      ledger verify and set-aside: the ledger's proof, and debits that it could not take
    backup      backup, restore: the database in a file
    doctor      its findings; checks  of the configuration, the disk and providers; redis_checks  of Redis
    stores      where the stores are; store_options  those of one command
    export      usage events as files
    prices      operator price: list, check, import, diff, try, on files of prices
    stripe      operator stripe: sync, with Stripe alone, and what a gateway is asked for
    tools       connect: settings of coding agents for this gateway
    connect     how operator commands reach the billing API: over HTTP, or in this process, on the stores
    api_url     the address that a running `up` leaves for them
    failures    what a failure says; misuse  what a wrong environment or file says

The commands on the billing API, options and output are `billing.cli`'s.
"""

from gateway.commands.root import main

__all__ = ["main"]
