-- Corrections of several accounts ($1), each after a number ($2), at most $3 of each, with what the account counts in.
SELECT c.*, k.quotas AS key_quotas, m.user_id, m.quotas AS user_quotas, a.plan, a.quotas AS account_quotas
FROM unnest($1::text[], $2::bigint[]) AS asked (account_id, after)
    JOIN accounts a ON a.id = asked.account_id
    CROSS JOIN LATERAL (
        SELECT * FROM corrections
        WHERE corrections.account_id = asked.account_id AND corrections.xseq > asked.after
        ORDER BY corrections.xseq LIMIT $3) c
    LEFT JOIN api_keys k ON k.id = c.key_id
    LEFT JOIN member_limits m ON m.account_id = c.account_id AND m.user_id = k.user_id
ORDER BY c.account_id, c.xseq
