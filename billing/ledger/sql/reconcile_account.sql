-- What Redis should have of account $1 when it was told of correction $2 last, and counted debit $4 of epoch $3 last: the
-- ledger's balance, less the corrections that it was not told of, plus the debits that it has not counted. `debits` are
-- those of the epoch up to $4: all of them must be there. The epoch began at $5.
SELECT a.balance_nano, a.plan, a.quotas, a.version,
    coalesce((SELECT sum(delta_nano) FROM corrections c WHERE c.account_id = a.id AND c.xseq > $2), 0)::bigint AS untold_nano,
    coalesce(u.later_nano, 0)::bigint AS later_nano, coalesce(u.debits, 0)::bigint AS debits
FROM accounts a LEFT JOIN LATERAL (
    SELECT sum(charged_nano) FILTER (WHERE dseq > $4 AND xseq IS NULL) AS later_nano,
        count(*) FILTER (WHERE dseq <= $4) AS debits
    FROM usage_events u WHERE u.account_id = a.id AND u.epoch = $3 AND u.created_at >= $5
) u ON true
WHERE a.id = $1
