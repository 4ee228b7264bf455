SELECT id, said, created_at FROM prices
WHERE provider = $1 AND model = $2
ORDER BY effective_from DESC, created_at DESC, id LIMIT $3
