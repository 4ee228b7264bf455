-- What the rollups say was used in each counter's window: from a bucket on, by one account, or one key of it.
SELECT c.place, coalesce(sum(r.requests), 0)::bigint AS requests, coalesce(sum(r.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(r.output_tokens), 0)::bigint AS output_tokens, coalesce(sum(r.charged_nano), 0)::bigint AS cost_nano
FROM unnest($3::smallint[], $4::bigint[], $5::text[], $6::text[])
    WITH ORDINALITY AS c (granularity, since_s, pattern, feature, place)
LEFT JOIN usage_rollups r ON r.account_id = $1 AND ($2::text IS NULL OR r.key_id = $2)
    AND r.granularity = c.granularity AND r.bucket >= to_timestamp(c.since_s) AND r.feature = c.feature
    AND (c.pattern = '' OR r.model = c.pattern
        OR (right(c.pattern, 1) = '*' AND starts_with(r.model, left(c.pattern, -1))))
GROUP BY c.place
