-- The part of `window_usage` that Redis has counted itself since debit $3 of epoch $4 and correction $5: rows written
-- since $6. The counters are as in `window_usage`.
SELECT c.place, coalesce(sum(CASE WHEN u.outcome = 'settled' OR u.input_tokens + u.output_tokens > 0 THEN 1 ELSE 0 END)
        FILTER (WHERE u.request_id IS NOT NULL), 0)::bigint AS requests,
    coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens, coalesce(sum(u.charged_nano), 0)::bigint AS cost_nano
FROM unnest($7::bigint[], $8::text[], $9::text[]) WITH ORDINALITY AS c (since_s, pattern, feature, place)
LEFT JOIN usage_events u ON u.account_id = $1 AND ($2::text IS NULL OR u.key_id = $2)
    AND u.created_at >= $6 AND u.admitted_at >= to_timestamp(c.since_s) AND u.feature = c.feature
    AND ((u.xseq IS NULL AND u.epoch = $4 AND u.dseq > $3) OR u.xseq > $5)
    AND (c.pattern = '' OR u.model = c.pattern
        OR (right(c.pattern, 1) = '*' AND starts_with(u.model, left(c.pattern, -1))))
GROUP BY c.place
