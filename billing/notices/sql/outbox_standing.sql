SELECT
    (SELECT count(*) FROM notices WHERE handed_out_at IS NULL)
        + (SELECT count(*) FROM webhook_deliveries WHERE delivered_at IS NULL AND parked_at IS NULL) AS waiting,
    (SELECT count(*) FROM webhook_deliveries WHERE parked_at IS NOT NULL) AS parked,
    coalesce((SELECT extract(epoch FROM now() - min(created_at)) FROM (
        SELECT min(created_at) AS created_at FROM notices WHERE handed_out_at IS NULL
        UNION ALL
        SELECT min(created_at) FROM webhook_deliveries WHERE delivered_at IS NULL AND parked_at IS NULL
    ) AS oldest), 0)::float8 AS lag_s
