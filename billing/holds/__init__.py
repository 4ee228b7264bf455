"""Holds: admission and settlement in Redis, kept right by Postgres.

model         needs, decisions, a request's hold as a state machine, and what Redis is sent of them
redis/        the one place that imports redis: script calls, plain commands, subscriptions; layout and names of keys
lua/          the scripts: hot (admit, settle, void), install, adopt, fill, retime, apply, ack, rehold, claim, drop,
              reclaim, discard, fence, join, beat; attempt, refused: of others who count in Redis
batch         one script call for each turn of the event loop, and the holds of this process
api           Holds: what a server of requests calls; asking for a hold, and loading what Redis lacked to decide
wait_queue    waiting for running requests
epochs        what this gateway knows of a partition of Redis; epochs of the server behind it, and of the ledger that it
              was loaded from (rule R1)
epoch_start   how this gateway takes part in an epoch (rule R6)
loading       from Postgres into Redis: accounts, keys and users, new versions, new counters (rule R2); corrections,
              which are changes of a balance that Redis has not made itself (rule R5)
debit_writer  debits on their way to Postgres: order, batches, back-off (rule R3); those that Redis did not confirm (R4)
outbox        what Redis has settled, by that writer; its second copy on local disk
lasting       holds that outlast the process that made them, as rows in Postgres
lease         this gateway's sign of life, kept by a thread, and which others live
recovery      the journal as gateways read it; what other processes left behind, and how a hold ends whose gateway is
              gone
reconcile     Redis compared with the ledger
cache         principals in memory; what has changed, published to Redis and to every gateway
engine        all of it, wired and started together, with what runs beside the hot path
"""
