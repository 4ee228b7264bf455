-- What all accounts were charged and what it cost, by one name: the account (1), the model (2), the provider (3) or the day (4),
-- as $5 says. Of the sums in each piece of time (granularity $1, from $2 on and before $3, taken $4 times: 1 or -1); of what is
-- fresh from $6 on and before $7; of that time also what is apart, and what was given back or charged more out of and to the
-- revenue, which is of accounts and days alone. The total comes first, without a name, then $8 groups after the first $9.
-- OFFSET 0 keeps each piece to one short reading of the index.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[], $4::integer[])
        AS p (granularity, since, until, sign)
), used AS MATERIALIZED (
    SELECT name, sum(sign * requests) AS used, sum(CASE WHEN sign > 0 THEN cost_nano ELSE -cost_nano END) AS used_cost,
        sum(CASE WHEN sign > 0 THEN charged_nano ELSE -charged_nano END) AS used_charged
    FROM (
        SELECT s.account_id AS name, sign, requests, cost_nano, charged_nano
        FROM pieces AS p CROSS JOIN LATERAL (
            SELECT * FROM usage_by_account
            WHERE $5 = 1 AND granularity = p.granularity AND bucket >= p.since AND bucket < p.until
            OFFSET 0
        ) AS s
        UNION ALL
        SELECT CASE $5 WHEN 2 THEN model WHEN 3 THEN provider ELSE to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD') END,
            sign, requests, cost_nano, charged_nano
        FROM pieces AS p CROSS JOIN LATERAL (
            SELECT * FROM usage_by_model
            WHERE $5 <> 1 AND granularity = p.granularity AND bucket >= p.since AND bucket < p.until
            OFFSET 0
        ) AS s
        UNION ALL
        SELECT CASE $5 WHEN 1 THEN account_id WHEN 2 THEN model WHEN 3 THEN coalesce(provider, '')
                ELSE to_char(admitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END,
            1, count(*), sum(cost_nano), sum(charged_nano)
        FROM usage_fresh WHERE admitted_at >= $6 AND admitted_at < $7
        GROUP BY 1
    ) AS sums
    GROUP BY 1
    HAVING sum(sign * requests) <> 0
), apart (name, kind, requests, cost_nano, charged_nano) AS (
    SELECT CASE $5 WHEN 1 THEN account_id WHEN 2 THEN model WHEN 3 THEN provider
            ELSE to_char(admitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END,
        CASE WHEN outcome = 'expired' AND charged_nano = 0 THEN 'voided' WHEN estimated OR outcome = 'expired' THEN 'estimated'
            ELSE 'unpriced' END,
        count(*), sum(cost_nano), sum(charged_nano)
    FROM usage_events
    WHERE (estimated OR outcome = 'expired' OR price_id IN ('', 'named')) AND admitted_at >= $6 AND admitted_at < $7
    GROUP BY 1, 2
    UNION ALL
    SELECT CASE $5 WHEN 1 THEN account_id WHEN 4 THEN to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END, 'returned',
        0, 0, sum(amount_nano)
    FROM (
        SELECT credit_account AS account_id, created_at, amount_nano FROM transfers
        WHERE debit_account = 'sys:revenue' AND kind IN ('refund', 'adjustment') AND created_at >= $6 AND created_at < $7
        UNION ALL
        SELECT debit_account, created_at, -amount_nano FROM transfers
        WHERE credit_account = 'sys:revenue' AND kind IN ('refund', 'adjustment') AND created_at >= $6 AND created_at < $7
    ) AS t
    GROUP BY 1
), margins AS (
    SELECT name, coalesce(used, 0) AS used, coalesce(used_cost, 0) AS used_cost, coalesce(used_charged, 0) AS used_charged,
        estimated, estimated_cost, estimated_charged, unpriced, unpriced_cost, unpriced_charged, voided, voided_cost,
        voided_charged, returned
    FROM used FULL JOIN (
        SELECT name, sum(requests) FILTER (WHERE kind = 'estimated') AS estimated,
            sum(cost_nano) FILTER (WHERE kind = 'estimated') AS estimated_cost,
            sum(charged_nano) FILTER (WHERE kind = 'estimated') AS estimated_charged,
            sum(requests) FILTER (WHERE kind = 'unpriced') AS unpriced,
            sum(cost_nano) FILTER (WHERE kind = 'unpriced') AS unpriced_cost,
            sum(charged_nano) FILTER (WHERE kind = 'unpriced') AS unpriced_charged,
            sum(requests) FILTER (WHERE kind = 'voided') AS voided, sum(cost_nano) FILTER (WHERE kind = 'voided') AS voided_cost,
            sum(charged_nano) FILTER (WHERE kind = 'voided') AS voided_charged,
            sum(charged_nano) FILTER (WHERE kind = 'returned') AS returned
        FROM apart
        GROUP BY 1
    ) AS others USING (name)
)
SELECT NULL AS name, sum(used) AS used, sum(used_cost) AS used_cost, sum(used_charged) AS used_charged,
    sum(estimated) AS estimated, sum(estimated_cost) AS estimated_cost, sum(estimated_charged) AS estimated_charged,
    sum(unpriced) AS unpriced, sum(unpriced_cost) AS unpriced_cost, sum(unpriced_charged) AS unpriced_charged,
    sum(voided) AS voided, sum(voided_cost) AS voided_cost, sum(voided_charged) AS voided_charged, sum(returned) AS returned
FROM margins
UNION ALL
(SELECT * FROM margins WHERE name IS NOT NULL
ORDER BY CASE $5 WHEN 4 THEN name END, used_charged DESC, used_cost DESC, name COLLATE "C"
LIMIT $8 OFFSET $9)
