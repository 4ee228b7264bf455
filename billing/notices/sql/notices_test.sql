-- A notice for one endpoint alone, about the account that has it (an operator's: about none).
WITH made AS (
    INSERT INTO notices (account_id, type, data, handed_out_at)
    SELECT coalesce(account_id, ''), 'test', '{}', now() FROM webhook_endpoints
    WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING id
)
INSERT INTO webhook_deliveries (notice_id, endpoint_id) SELECT id, $1 FROM made RETURNING id
