-- Partition $1 at the moment of this transaction.
SELECT epoch, began_at, now() AS now FROM partitions WHERE p = $1
