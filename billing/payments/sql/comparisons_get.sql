SELECT asked_since, since, began_at, ended_at, compared, differences, error FROM payment_comparisons WHERE provider = $1
