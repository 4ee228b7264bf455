"""Holds: admission and settlement in Redis, kept right by Postgres.

decision     what is asked and what is decided, as values (pure)
lua/         the scripts: hot (admit, settle, void), install, adopt, fill, retime, apply, ack, rehold, claim, drop,
             reclaim, discard, fence, join, beat; attempt, refused: of others who count in Redis
redis_errors  what can go wrong with Redis, and what is known of a command's fate then
redis/       the one place that imports redis: script calls, plain commands, subscriptions; layout and names of keys
hold         one request's hold, and the items by which it is admitted, settled, voided
admission    asking for a hold, and bringing about what it lacked; admission_queue  waiting for running requests
service      Holds: what a server of requests calls
partitions   the life of the Redis server behind a partition, numbered in epochs; ledger_watch  whether Postgres is the
             one that Redis was loaded from, and its clock
loader       from Postgres into Redis: whole subjects, new versions, new counters; windows  what counters start from
outbox       settled debits on their way to Postgres; debit_queue  whose turn it is; backlog  how many there are of all
             gateways
ledger_way   settlements that Redis did not confirm; spool  the second copy of debits on local disk; replay  those of
             processes that have ended
journal      the journal as gateways read it: each entry by itself, what can't be read set aside
corrections  changes of a balance that Redis has not made itself
lease        this gateway's sign of life, kept by a thread; peers  who else lives
recovery     what other processes left behind, and what a new epoch asks of this one; expiry  how a hold ends whose
             gateway is gone
reconcile    Redis compared with the ledger; survey, survey_windows  many accounts at once; snapshot  what Redis has
             of them
cache        principals in memory; singleflight  one look-up for all who ask at once
change_notifier  telling Redis and every gateway of changes
engine       all of it, wired and started together; loops  what runs beside, started again when it fails
"""
