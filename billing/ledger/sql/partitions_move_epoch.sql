-- From epoch $2 to the next by compare-and-set; no row when another gateway was faster.
INSERT INTO partitions (p, epoch, identity) VALUES ($1, $2 + 1, $3)
ON CONFLICT (p) DO UPDATE SET epoch = excluded.epoch, identity = excluded.identity, began_at = now() WHERE partitions.epoch = $2
RETURNING epoch
