"""Metrics: counted cheaply in each worker, shown as one sum by whichever worker is asked.

registry   what is counted, and the text of it; a worker's counts as one value, and where workers show each other theirs
history    what is new of refusals and providers, added in Postgres to what all gateways have counted
"""
