SELECT * FROM collect_runs WHERE id < $1 ORDER BY id DESC LIMIT $2
