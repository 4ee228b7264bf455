"""The `metergate` command.

    root        all commands put together; `main`, the entry point
    serving     up, serve; up  what they do; first_start  the admin key and the account that a first start makes, and
                what is printed
    init        init: files to edit
    upkeep      migrate, doctor, explain, reconcile, ledger verify and set-aside: commands on the database and Redis
                themselves; export: usage events as files
    migration_plan  migrate --plan: what migrations lock, by a scratch database
    backup      backup, restore: the database in a file; backup_places  a folder, or a bucket
    postgres_programs  pg_dump and others, as they are run; scratch  a database for a moment
    body_logs   body-logs: list, show, decrypt
    reload      reload: new workers in the place of those that run
    doctor      its findings, of the configuration, the disk, providers, and both stores
    running     what the gateway that runs says of itself
    stores      where the stores are, and what a failure says; store_options  those of one command
    prices      operator price: list, check, import, diff, try, on files of prices
    stripe      operator stripe: sync, with Stripe alone, and what a gateway is asked for
    tools       connect: settings of coding agents for this gateway
    connect     how operator commands reach the billing API: over HTTP, or in this process, on the stores
    data_folder  the keys of a data folder, and the address that a running `up` leaves for them; what a wrong
                environment or file says

The commands on the billing API, options and output are `billing.cli`'s.
"""

from gateway.commands.root import main

__all__ = ["main"]
