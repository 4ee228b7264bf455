-- What Redis should have of accounts $1, each told of correction $2 last and having counted debit $3 of epoch $6 last: the
-- ledger's balance, less the corrections that it was not told of, plus the debits that it has not counted. Events are looked for from their admission at $5 on;
-- `debits` are those after number $4, up to which all are known to be there. `later` debits are those that Redis has not
-- counted yet. OFFSET 0 keeps the events to one short reading of an index for each account, whatever the planner believes
-- of the table.
SELECT g.place, a.balance_nano, a.plan, a.quotas::text AS quotas, a.version, a.xseq AS newest_xseq, a.pushed_xseq,
    CASE WHEN a.xseq > g.xseq THEN
        (SELECT coalesce(sum(delta_nano), 0) FROM corrections c WHERE c.account_id = a.id AND c.xseq > g.xseq)
    ELSE 0 END::bigint AS pending_nano,
    u.later, u.later_nano, u.debits
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[])
    WITH ORDINALITY AS g (id, xseq, dseq, counted, since, place)
JOIN accounts a ON a.id = g.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE dseq > g.dseq AND e.xseq IS NULL) AS later,
        coalesce(sum(charged_nano) FILTER (WHERE dseq > g.dseq AND e.xseq IS NULL), 0)::bigint AS later_nano,
        count(*) FILTER (WHERE dseq > g.counted AND dseq <= g.dseq) AS debits
    FROM usage_events e
    WHERE e.account_id = g.id AND e.admitted_at >= g.since AND e.epoch = $6
    OFFSET 0
) AS u
