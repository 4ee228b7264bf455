SELECT said FROM prices WHERE id = $1
