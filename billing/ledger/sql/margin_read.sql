-- What all accounts were charged and what it cost, by one name: the account (1), the model (2), the provider (3) or the day (4),
-- as $5 says. Of the sums in each piece of time (granularity $1, from $2 on and before $3, taken $4 times: 1 or -1); of what is
-- fresh from $6 on and before $7; of that time also what is apart, and what was given back or charged more out of and to the
-- revenue, which is of accounts and days alone. At most $8 rows of each. OFFSET 0 keeps each piece to one short reading of
-- the index.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[], $4::integer[])
        AS p (granularity, since, until, sign)
), rolled AS (
    SELECT CASE WHEN $5 = 1 THEN s.account_id END AS account_id, CASE WHEN $5 IN (2, 3) THEN s.dimensions END AS dimensions,
        CASE WHEN $5 = 4 THEN s.bucket END AS bucket, sum(sign * s.requests) AS requests,
        sum(sign * s.cost_nano) AS cost_nano, sum(sign * s.charged_nano) AS charged_nano
    FROM accounts AS a CROSS JOIN pieces AS p CROSS JOIN LATERAL (
        SELECT account_id, dimensions, bucket, requests, cost_nano, charged_nano FROM usage_sums
        WHERE account_id = a.id AND granularity = p.granularity AND tag = 0 AND bucket >= p.since AND bucket < p.until
        OFFSET 0
    ) AS s
    GROUP BY 1, 2, 3
), summed AS (
    SELECT CASE $5 WHEN 1 THEN rolled.account_id WHEN 2 THEN d.model WHEN 3 THEN d.provider
            ELSE to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS name,
        sum(requests) AS requests, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM rolled LEFT JOIN usage_dimensions AS d ON $5 IN (2, 3) AND d.id = rolled.dimensions
    GROUP BY 1
), fresh AS (
    SELECT CASE $5 WHEN 1 THEN account_id WHEN 2 THEN model WHEN 3 THEN coalesce(provider, '')
            ELSE to_char(admitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS name,
        count(*) AS requests, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_fresh WHERE admitted_at >= $6 AND admitted_at < $7
    GROUP BY 1
), apart AS (
    SELECT CASE $5 WHEN 1 THEN account_id WHEN 2 THEN model WHEN 3 THEN provider
            ELSE to_char(admitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS name,
        CASE WHEN outcome = 'expired' AND charged_nano = 0 THEN 'voided' WHEN estimated OR outcome = 'expired' THEN 'estimated'
            ELSE 'unpriced' END AS kind,
        count(*) AS requests, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_events
    WHERE (estimated OR outcome = 'expired' OR price_id IN ('', 'named')) AND admitted_at >= $6 AND admitted_at < $7
    GROUP BY 1, 2
), returned AS (
    SELECT CASE $5 WHEN 1 THEN account_id WHEN 4 THEN to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS name,
        sum(amount_nano) AS amount_nano
    FROM (
        SELECT credit_account AS account_id, created_at, amount_nano FROM transfers
        WHERE debit_account = 'sys:revenue' AND kind <> 'usage' AND kind IN ('refund', 'adjustment') AND created_at >= $6 AND created_at < $7
        UNION ALL
        SELECT debit_account, created_at, -amount_nano FROM transfers
        WHERE credit_account = 'sys:revenue' AND kind <> 'usage' AND kind IN ('refund', 'adjustment') AND created_at >= $6 AND created_at < $7
    ) AS t
    GROUP BY 1
)
(SELECT name, 'used' AS kind, sum(requests)::bigint AS requests, sum(cost_nano)::text AS cost_nano,
    sum(charged_nano)::text AS charged_nano
FROM (SELECT * FROM summed UNION ALL SELECT * FROM fresh) AS used
GROUP BY 1 HAVING sum(requests) <> 0 OR sum(charged_nano) <> 0 LIMIT $8)
UNION ALL
(SELECT name, kind, requests, cost_nano::text, charged_nano::text FROM apart LIMIT 3 * $8)
UNION ALL
(SELECT name, 'returned', 0, '0', amount_nano::text FROM returned LIMIT $8)
