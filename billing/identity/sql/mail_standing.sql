SELECT
    (SELECT count(*) FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL) AS waiting,
    (SELECT count(*) FROM mail_outbox WHERE failed_at IS NOT NULL) AS parked,
    coalesce((
        SELECT extract(epoch FROM now() - min(created_at)) FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
    ), 0)::float8 AS lag_s
