SELECT epoch, identity FROM partitions WHERE p = $1
