"""The wiring, made from the settings: what talks to the stores, and what runs beside requests.

runtime      Runtime: all of it, as it is passed on
wiring       opens the stores and makes a Runtime
stores       the engine on open stores, for commands and for `wiring`
encryption   encrypts secrets in Postgres, and checks that those that are there can be decrypted
identity     people, their sessions and organizations
payments     payments, their pages, /pay/plans/{plan} and their work beside requests; bills of providers, with their
             rounds
metering     what is metered beside the proxy: traffic collected from exporters, events and holds of other services
body_logs    what keeps and writes bodies of requests and answers, where they are logged
exports      usage to other systems: each export of the settings, with its other side
outgoing     questions to other issuers of tokens, bounded in time and size; notices and mails
"""
