-- Change a budget.
-- What was told of counts on where it is still of the same sum: up to the highest of its thresholds that stays. A threshold that
-- is new is told of, if it is reached and no higher one was told of that stays. Of another sum everything is told anew.
UPDATE budgets AS b SET subject = $3, about = $4, period = $5, amount_nano = $6, thresholds = $7, notify = $8,
    told_period = CASE WHEN (b.subject, b.about, b.period, b.amount_nano) = ($3, $4, $5, $6) THEN b.told_period ELSE '' END,
    told = CASE WHEN (b.subject, b.about, b.period, b.amount_nano) = ($3, $4, $5, $6) THEN coalesce(
        (SELECT max(each) FROM unnest(b.thresholds) AS each WHERE each <= b.told AND each = ANY ($7)), 0) ELSE 0 END,
    looked_at = '-infinity'
WHERE id = $1 AND account_id = $2 RETURNING *
