"""The wiring, made from the settings: what talks to the stores, and what runs beside requests.

runtime      Runtime: all of it, as it is passed on
wiring       opens the stores and makes a Runtime
stores       the engine on open stores, for commands and for `wiring`
identity     people, their sessions and organizations; what encrypts secrets in Postgres, and whether it opens those
             that are there
payments     payments, their pages, /pay/plans/{plan} and their work beside requests; bills of providers, with their
             rounds
metering     what is metered beside the proxy: traffic collected from exporters, events and holds of other services
exports      usage to other systems: each export of the settings, with its other side
outgoing     questions to other issuers of tokens, bounded in time and size; notices and mails
"""
