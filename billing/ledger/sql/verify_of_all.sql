-- What all accounts used in a day or a month, by account, or by model and provider, where it is not what their sums say.
SELECT by_account, granularity, bucket, first, second, s.requests AS sums, r.requests, s.charged_nano AS sums_charged_nano,
    r.charged_nano
FROM (
    SELECT true AS by_account, granularity, bucket, account_id AS first, '' AS second, sum(requests) AS requests,
        sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_sums WHERE granularity >= 2 AND tag = 0
    GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT false, u.granularity, u.bucket, coalesce(d.model, ''), coalesce(d.provider, ''), sum(u.requests), sum(u.cost_nano),
        sum(u.charged_nano)
    FROM usage_sums AS u LEFT JOIN usage_dimensions AS d ON d.id = u.dimensions
    WHERE u.granularity >= 2 AND u.tag = 0
    GROUP BY 1, 2, 3, 4, 5
) AS s FULL JOIN (
    SELECT true AS by_account, granularity, bucket, account_id AS first, '' AS second, requests, cost_nano, charged_nano
    FROM usage_by_account
    UNION ALL
    SELECT false, granularity, bucket, model, provider, requests, cost_nano, charged_nano FROM usage_by_model
) AS r USING (by_account, granularity, bucket, first, second)
WHERE (s.requests, s.cost_nano, s.charged_nano) IS DISTINCT FROM (r.requests, r.cost_nano, r.charged_nano)
ORDER BY by_account, granularity, bucket, first, second
