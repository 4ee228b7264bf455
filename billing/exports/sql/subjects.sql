-- Which of accounts $2 export $1 has not made known yet, with what the other side is told of them.
SELECT a.id, a.name, a.created_at FROM accounts AS a
WHERE a.id = ANY ($2::text[])
    AND NOT EXISTS (SELECT FROM export_subjects AS s WHERE s.export = $1 AND s.account_id = a.id)
ORDER BY a.id
