"""The ledger: transfers and usage events, the batch writer and what it sets aside, rollups, reports, verification.

debits       one metered request in the ledger: as it is written, as it is read back
writer       the batch that writes debits; refused_debits  what the ledger can't take, and why; set_aside  reading it,
             and writing it after all
reports      what customers and operators read
sums         reads what was used in spans of time, by dimension and tag
roller       moves fresh usage into sums by minute, hour, day and month, and folds hours of busy accounts
used         what was used, and by what it is grouped: the values
margins      what was charged less what it cost, of all accounts
explanations how an amount came about
usage_columns  counts of a usage as rows keep them, and the shares of several models
verify       the ledger's promises, proved from one snapshot
retention    months of usage events that are dropped by age, once they are proved
catalogue    price rows and plans of the configuration, made known to Postgres
leases       signs of life of gateways
"""
