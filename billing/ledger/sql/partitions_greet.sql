-- Partition $1 as a handshake compares it with Redis: its epoch (0: none yet) and what names it. `ledger` is this ledger
-- and when the epoch began in it: no other ledger, and no copy of this one, says the same of an epoch of that number.
SELECT coalesce(p.epoch, 0) AS epoch, p.identity, i.beat,
    ledger_identity() || '@' || coalesce((extract(epoch FROM p.began_at) * 1000000)::bigint, 0) AS ledger
FROM installation i LEFT JOIN partitions p ON p.p = $1
