-- What was used in each counter's window: from a second on and before another, by one account, or these keys of it. Rollups
-- and what they do not have yet, of one snapshot; windows begin with a minute, so that a fresh row is in one or is not, as
-- its rollup will be.
WITH counters AS (
    SELECT * FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
        WITH ORDINALITY AS c (granularity, since_s, until_s, pattern, feature, place)
), fresh AS MATERIALIZED (
    SELECT date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, model, feature, count(*) AS requests,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(charged_nano) AS charged_nano
    FROM usage_fresh
    WHERE account_id = $1 AND ($2::text[] IS NULL OR key_id = ANY ($2))
    GROUP BY 1, 2, 3
), used AS (
    SELECT c.place, r.requests, r.input_tokens, r.output_tokens, r.charged_nano
    FROM counters c JOIN usage_rollups r ON r.account_id = $1 AND ($2::text[] IS NULL OR r.key_id = ANY ($2))
        AND r.granularity = c.granularity AND r.bucket >= to_timestamp(c.since_s)
        AND r.bucket < to_timestamp(c.until_s) AND r.feature = c.feature
        AND (c.pattern = '' OR r.model = c.pattern
            OR (right(c.pattern, 1) = '*' AND starts_with(r.model, left(c.pattern, -1))))
    UNION ALL
    SELECT c.place, f.requests, f.input_tokens, f.output_tokens, f.charged_nano
    FROM counters c JOIN fresh f ON f.minute >= to_timestamp(c.since_s) AND f.minute < to_timestamp(c.until_s)
        AND f.feature = c.feature
        AND (c.pattern = '' OR f.model = c.pattern
            OR (right(c.pattern, 1) = '*' AND starts_with(f.model, left(c.pattern, -1))))
)
SELECT place, coalesce(sum(requests), 0)::bigint AS requests, coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(output_tokens), 0)::bigint AS output_tokens, coalesce(sum(charged_nano), 0)::bigint AS cost_nano
FROM counters LEFT JOIN used USING (place)
GROUP BY place
