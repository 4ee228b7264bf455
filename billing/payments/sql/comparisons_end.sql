-- A comparison is over: $3 objects were compared. What it found to differ no longer, and what is new, is in the list by now.
UPDATE payment_comparisons SET ended_at = $2, compared = $3, error = $4,
    differences = (SELECT count(*) FROM payment_differences WHERE provider = $1)
WHERE provider = $1
