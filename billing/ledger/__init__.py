"""The ledger: transfers and usage events, the batch writer and its dead letters, rollups, reports, verification.

debits       one metered request in the ledger: as it is written, as it is read back; its counts, by model too    pure
writer       the batch that writes debits, and keeps what the ledger can't take; dead letters, written after all
reports      what customers and operators read; margins: what was charged less what it cost
sums         what was used in spans of time, by dimension and tag; fresh usage is moved into sums by minute, hour, day
             and month, and hours of busy accounts are folded
explanations how an amount came about                                                                             pure
verify       the ledger's promises, proved from one snapshot
retention    months of usage events that are dropped by age, once they are proved
catalogue    price rows and plans of the configuration, made known to Postgres
leases       signs of life of gateways, and the debits of holds whose gateway died
"""
