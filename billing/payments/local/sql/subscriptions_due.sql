SELECT id FROM local_objects
WHERE kind = 'subscription' AND state ->> 'status' IN ('active', 'past_due') AND (state ->> 'period_end')::timestamptz <= $1
ORDER BY (state ->> 'period_end')::timestamptz LIMIT $2
