-- Note that Redis has corrections of accounts $1 up to $2 (arrays of the same order); as corrected.sql.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, told.xseq)
FROM unnest($1::text[], $2::bigint[]) AS told (id, xseq)
WHERE accounts.id = told.id AND accounts.id IN (
    SELECT id FROM accounts WHERE id = ANY ($1::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
