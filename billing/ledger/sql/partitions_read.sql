SELECT epoch, identity, began_at FROM partitions WHERE p = $1
