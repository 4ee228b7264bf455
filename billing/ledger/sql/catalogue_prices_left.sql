-- What the ledger keeps and a file does not say: the ids of the file are given, the rows that came last come first.
SELECT id, said, created_at FROM prices
WHERE id <> ALL($1::text[])
ORDER BY created_at DESC, provider, model, effective_from DESC, id LIMIT $2
