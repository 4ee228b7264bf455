-- Count $4 units, where there are as many left of $5 (null: any number); no row where there are not.
INSERT INTO feature_units AS u (account_id, feature, period_start, used)
SELECT $1, $2, $3, $4 WHERE $5::bigint IS NULL OR $4 <= $5
ON CONFLICT (account_id, feature, period_start) DO UPDATE SET used = u.used + excluded.used
WHERE $5::bigint IS NULL OR u.used + excluded.used <= $5
RETURNING used
