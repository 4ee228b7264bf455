-- The part of `window_usage` that Redis has counted itself since debit $3 of epoch $4 and correction $5: the epoch's later
-- debits, all written since $6, and later corrections but for those of debits that it had settled by then. The counters are
-- as in `window_usage`.
WITH later AS (
    SELECT request_id, admitted_at, outcome, key_id, model, feature, input_tokens, output_tokens, charged_nano
    FROM usage_events
    WHERE account_id = $1 AND xseq IS NULL AND epoch = $4 AND dseq > $3 AND created_at >= $6
    UNION ALL
    SELECT u.request_id, u.admitted_at, u.outcome, u.key_id, u.model, u.feature, u.input_tokens, u.output_tokens,
        u.charged_nano
    FROM corrections x JOIN usage_events u ON u.request_id = x.request_id
        AND u.admitted_at = timestamptz 'epoch' + x.admitted_at_ms * interval '1 millisecond'
    WHERE x.account_id = $1 AND x.xseq > $5 AND (u.epoch = $4 AND u.dseq <= $3) IS NOT TRUE
)
SELECT c.place, coalesce(sum(CASE WHEN u.outcome = 'settled' OR u.input_tokens + u.output_tokens > 0 THEN 1 ELSE 0 END)
        FILTER (WHERE u.request_id IS NOT NULL), 0)::bigint AS requests,
    coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens, coalesce(sum(u.charged_nano), 0)::bigint AS cost_nano
FROM unnest($7::bigint[], $8::bigint[], $9::text[], $10::text[])
    WITH ORDINALITY AS c (since_s, until_s, pattern, feature, place)
LEFT JOIN later u ON ($2::text[] IS NULL OR u.key_id = ANY ($2))
    AND u.admitted_at >= to_timestamp(c.since_s) AND u.admitted_at < to_timestamp(c.until_s) AND u.feature = c.feature
    AND (c.pattern = '' OR u.model = c.pattern
        OR (right(c.pattern, 1) = '*' AND starts_with(u.model, left(c.pattern, -1))))
GROUP BY c.place
