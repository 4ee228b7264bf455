"""The gateway: one request in, one answer out, metered. A request's life is `proxy.handler`'s, top to bottom.

app          the only wiring: from settings to stores, services, engine and routes; runtime  that of the stores
opened       what is open then: the stores, and the services on them
rules        the settings in the form that each part of a worker takes
identity     people, their sessions and organizations, made from the settings on one database
seals        what seals secrets in Postgres, and whether it opens those that lie there
stores       the engine on open stores, for commands and for `runtime`
payments     payments by the settings, their pages, /pay/plans/{plan} and their work beside requests
bills        bills of providers by the settings, and their rounds
metering     what is metered beside the proxy: traffic collected from exporters, events and holds of other services
outgoing     questions to other issuers of tokens, bounded in time and size; notices and mails
exports      usage to other systems: each export of the settings, with its other side
auth         who asks: what `billing` says of a request's key, as refusals
server/      what a client's connection may send, how a request is read and an answer written; refusals
proxy/       a metered request: routed, estimated, held, forwarded, priced, settled
dialects/    what an API's requests ask for, and where usage sits in its answers; one folder an API
upstream/    how a request reaches a provider and its answer comes back; the local provider
endpoints/   what the gateway answers by itself: models, the key's limits, one request's cost, health, jobs, /docs
metrics/     counted cheaply in each worker, shown as one sum
config/      one frozen Settings, from the environment and three files; `shipped/`, the defaults
process/     worker processes and their supervisor
tokens       counting with tiktoken and `vocabularies/`
commands/    the `metergate` command: up, serve, init, doctor and what works on the stores
embedded/    real Postgres and Redis from wheels, supervised
pages/       the text of /docs
"""
