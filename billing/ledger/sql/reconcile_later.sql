-- The debits that the ledger has and Redis had not counted, of accounts $2 in places $1: those after debit $3 of epoch
-- $5, and later corrections than $4 but for those of debits that it had settled by then. As window_usage_after.sql, for
-- many accounts, each debit by itself. Debits are looked for from their admission at $6 on.
SELECT g.place, u.key_id, u.feature, u.model, floor(extract(epoch FROM u.admitted_at))::bigint AS admitted_s,
    CASE WHEN u.outcome = 'settled' OR u.input_tokens + u.output_tokens > 0 THEN 1 ELSE 0 END AS requests,
    u.input_tokens, u.output_tokens, u.charged_nano AS cost_nano
FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::bigint[]) AS g (place, account_id, dseq, xseq)
CROSS JOIN LATERAL (
    SELECT e.key_id, e.feature, e.model, e.admitted_at, e.outcome, e.input_tokens, e.output_tokens, e.charged_nano
    FROM usage_events e
    WHERE e.account_id = g.account_id AND e.admitted_at >= $6 AND e.xseq IS NULL AND e.epoch = $5 AND e.dseq > g.dseq
    UNION ALL
    SELECT e.key_id, e.feature, e.model, e.admitted_at, e.outcome, e.input_tokens, e.output_tokens, e.charged_nano
    FROM corrections x JOIN usage_events e ON e.request_id = x.request_id
        AND e.admitted_at = timestamptz 'epoch' + x.admitted_at_ms * interval '1 millisecond'
    WHERE x.account_id = g.account_id AND x.xseq > g.xseq AND (e.epoch = $5 AND e.dseq <= g.dseq) IS NOT TRUE
) AS u
