-- From epoch $2 to epoch $4 by compare-and-set; no row when another gateway was faster. Answers as partitions_greet.sql.
INSERT INTO partitions (p, epoch, identity) VALUES ($1, $4, $3)
ON CONFLICT (p) DO UPDATE SET epoch = excluded.epoch, identity = excluded.identity, began_at = now() WHERE partitions.epoch = $2
RETURNING epoch, (SELECT beat FROM installation) AS beat,
    ledger_identity() || '@' || (extract(epoch FROM began_at) * 1000000)::bigint AS ledger
