"""The proxy: one request in, one answer out. A request's life in seven stops is `handler`'s.

edge         a client's connection; call  one metered request and its answer as bytes
paced        how much of what a connection sends is parsed at once, and how soon
half_closed  whether a client that sends no more is still there
guard        what a client costs that shows no key; trailers  of chunked requests, which are never headers
intake       a request's body, read within bounds and parsed; bodies  how much of them is in memory, work on large ones
handler      route, authenticate, estimate, hold, forward, price, settle: the order of the checks; ids  of requests
routing      from a model's name to a provider; estimate  the worst case, and the charge
forward      from hold to settlement: send, read, settle before the last bytes; relay  answers that are streams
remainder    what goes on when the client is gone; running  the longest life of a request
settling     what a hold turns into: priced and settled, or given back; missing  usage that did not come
outcomes     what a client is told in the place of an answer; records  refusals to look up, request_log  a line each
exchange     one request on its way; answers  the headers of a metered answer
terms        what is the same for all requests of a key on a model, worked out once
streaming    the tap on a stream of events; watch  over one that is compressed; tokens  counting with tiktoken
providers/   dialects: what a request asks for, where usage sits; the local provider
upstream     the transport port; transport  what is behind it: pool, connection, incoming; or proxied
headers      what passes between client and provider; query  what of a query string; cors  what browsers are told
refusals     every no, in the client's envelope; reads  models, the key's limits, health, metrics; documentation  /docs
metrics      counted cheaply, summed over the workers; metrics_snapshot  what is counted; metrics_folder  shared
app          the only wiring; runtime  of the stores; worker  one process; memory  of it; supervisor  several of them;
             ended  telling the others that one of them has ended
settings     one frozen Settings; config/  its rooms; plan_files  which file of plans is in force
embedded/    real Postgres and Redis from wheels, supervised
cli/         the `metergate` command; up, doctor, init  what is behind three of its commands (clocks: one finding)
"""
