"""Traffic: what gateways refused and how providers answered, over all accounts, by time.

Each process counts beside its requests and adds what is new every few seconds (`gateway.metrics.history`), so that all
gateways are one sum. Nothing is billed by these counts: those of the last seconds go with a process that is killed.
They are kept by five minutes for two days, and by hour.

counts   what is counted, and what follows from it     pure
store    adding counts in Postgres, and reading them
"""
