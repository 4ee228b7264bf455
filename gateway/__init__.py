"""The gateway: one request in, one answer out, metered. A request's life is `proxy.course`'s, top to bottom.

app          one worker process, and the application that it serves, with the engine running behind it
runtime/     the wiring of what talks to the stores: engine, people, payments, metering, exports
auth         who asks: what `billing` says of a request's key, as refusals
server/      what a client's connection may send, how a request is read and an answer written; refusals
proxy/       a metered request: routed, estimated, held, forwarded, priced, settled
dialects/    what an API's requests ask for, and where usage sits in its answers; one folder an API
upstream/    how a request reaches a provider and its answer comes back; the local provider
endpoints/   what the gateway answers by itself: models, the key's limits, one request's cost, health, jobs, /docs
metrics/     counted cheaply in each worker, shown as one sum
tracing/     traces of requests, over OTLP
body_logs/   what requests ask and are answered, redacted and encrypted in a folder or a bucket
config/      one frozen Settings, from the environment and three files; `shipped/`, the defaults
process/     worker processes and their supervisor
tokens       counting with tiktoken and `vocabularies/`
object_stores  buckets of S3-compatible stores
commands/    the `metergate` command: up, serve, init, doctor and what works on the stores
embedded/    real Postgres and Redis from wheels, supervised
pages/       the text of /docs: `docs/` of the repository
"""
