-- Accounts whose rollups of a month from $1 on and before $2, of which events were dropped, are not what these came to,
-- with those that came since.
WITH dropped AS MATERIALIZED (
    SELECT month::timestamp AT TIME ZONE 'UTC' AS month, account_id, requests, counted_nano FROM usage_months_dropped
    WHERE month::timestamp AT TIME ZONE 'UTC' >= $1 AND month::timestamp AT TIME ZONE 'UTC' < $2
), months AS MATERIALIZED (
    SELECT DISTINCT month, (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' AS ends FROM dropped
), events AS (
    SELECT month, account_id, sum(requests) AS requests, sum(charged_nano) AS charged_nano
    FROM (
        SELECT month, account_id, requests, counted_nano AS charged_nano FROM dropped
        UNION ALL
        SELECT month, account_id, 1, charged_nano FROM months JOIN usage_events ON admitted_at >= month AND admitted_at < ends
        WHERE outcome = 'settled' OR input_tokens + output_tokens > 0
    ) AS every GROUP BY 1, 2
), rolled AS (
    SELECT month, account_id, sum(requests) AS requests, sum(charged_nano) AS charged_nano
    FROM (
        SELECT month, account_id, requests, charged_nano FROM months JOIN usage_rollups ON bucket = month AND granularity = 3
        UNION ALL
        SELECT month, account_id, 1, charged_nano FROM months JOIN usage_fresh ON admitted_at >= month AND admitted_at < ends
    ) AS every GROUP BY 1, 2
)
SELECT month, account_id, e.requests AS events, e.charged_nano AS events_charged_nano, r.requests, r.charged_nano
FROM events AS e FULL JOIN rolled AS r USING (month, account_id)
WHERE (coalesce(e.requests, 0), coalesce(e.charged_nano, 0)) <> (coalesce(r.requests, 0), coalesce(r.charged_nano, 0))
ORDER BY 1, 2
