UPDATE orders SET status = 'failed', reason = $2, updated_at = now()
WHERE id = $1 AND status = 'open'
RETURNING *
