"""The ledger: transfers and usage events, the batch writer and what it sets aside, rollups, reports, verification.

debits       what one metered request becomes, and the batch that writes it; set_aside  what the ledger could not take
rollups      fresh usage moved into sums by minute, hour, day and month
reports      what customers and operators read; explanations  how an amount came about
verify       the ledger's promises, proved from one snapshot
catalogue    price rows and plans of the configuration, made known to Postgres
leases       signs of life of gateways
"""
