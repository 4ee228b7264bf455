-- Note that the amount of number $5 was told for an hour; nothing where another gateway has noted it.
UPDATE export_hours SET told = told + asked, last = asked, amounts[n + 1] = asked, asked = NULL, asked_at = NULL, n = n + 1
WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 AND n = $5 AND asked IS NOT NULL
