SELECT id, request_digest, metadata FROM transfers WHERE idempotency_scope = $1 AND idempotency_key = $2
