-- Keep what the events of the month from $1 on and before $2 came to. Some may have come after others were dropped.
INSERT INTO usage_months_dropped AS d (month, account_id, requests, counted_nano, charges, charged_nano)
SELECT ($1 AT TIME ZONE 'UTC')::date, account_id, count(*) FILTER (WHERE counted),
    coalesce(sum(charged_nano) FILTER (WHERE counted), 0), count(*) FILTER (WHERE charged_nano > 0), sum(charged_nano)
FROM (
    SELECT account_id, charged_nano, outcome = 'settled' OR input_tokens + output_tokens > 0 AS counted
    FROM usage_events WHERE admitted_at >= $1 AND admitted_at < $2
) AS events
GROUP BY account_id
ON CONFLICT (month, account_id) DO UPDATE SET
    requests = d.requests + excluded.requests,
    counted_nano = d.counted_nano + excluded.counted_nano,
    charges = d.charges + excluded.charges,
    charged_nano = d.charged_nano + excluded.charged_nano,
    dropped_at = now()
