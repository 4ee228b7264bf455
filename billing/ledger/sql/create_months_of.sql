-- The months that these times, in Unix milliseconds, fall into get a partition where they have none.
SELECT create_usage_months(month, 1) FROM (
    SELECT DISTINCT date_trunc('month', (timestamptz 'epoch' + ms * interval '1 millisecond') AT TIME ZONE 'UTC')::date
    FROM unnest($1::bigint[]) AS t (ms)
) AS months (month)
