"""Holds: admission and settlement in Redis, kept right by Postgres.

model         what is asked and what is decided, as values (pure)
lua/          the scripts: hot (admit, settle, void), install, adopt, fill, retime, apply, ack, rehold, claim, drop,
              reclaim, discard, fence, join, beat; attempt, refused: of others who count in Redis
redis/        the one place that imports redis: script calls, plain commands, subscriptions; layout and names of keys
batch         one script call for each turn of the event loop
hold          one request's hold, as a state machine, and the holds of this process
items         admissions, settlements and voids as Redis takes them, and what it answers
admission     asking for a hold; wait_queue  waiting for running requests
corrections   bringing about what an admission lacked in Redis, and changes of a balance that Redis has not made itself
api           Holds: what a server of requests calls
epochs        the life of the Redis server behind a partition, numbered in epochs; partition  what is known of one,
              and whether Postgres is the ledger that Redis was loaded from
epoch_start   how this gateway takes part in an epoch
loading       from Postgres into Redis: whole subjects, new versions, new counters; windows  what counters
              there are and start from; live_windows  what is left of a principal's quotas
debit_writer  debits on their way to Postgres: which account is next, batches, back-off
outbox        what Redis has settled, by that writer, and how many debits wait in all
replay        what Redis did not confirm, by that writer; debits that processes that have ended left in their spools
spool         the second copy of debits on local disk
journal       the journal as gateways read it: each entry by itself, what can't be read set aside
lasting       holds that outlast the process that made them, as rows in Postgres
lease         this gateway's sign of life, kept by a thread, and which others live
recovery      what other processes left behind, and how a hold ends whose gateway is gone
reconcile     Redis compared with the ledger; comparison  many accounts of Redis, and one account of both compared
              (pure); ledger_snapshot  many accounts of Postgres
cache         principals in memory; singleflight  one look-up for all that ask at once
changes       what has changed, told to Redis and to every gateway
engine        all of it, wired and started together; upkeep  what runs beside the hot path, started again when it fails
"""
