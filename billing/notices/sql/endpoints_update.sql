-- Change an endpoint; enabling it resets the count of its failures.
UPDATE webhook_endpoints SET url = $3, types = $4, description = $5,
    disabled_at = CASE WHEN $6 THEN NULL ELSE coalesce(disabled_at, now()) END,
    disabled_reason = CASE WHEN $6 THEN NULL ELSE coalesce(disabled_reason, 'by hand') END,
    failing_since = CASE WHEN $6 AND disabled_at IS NOT NULL THEN NULL ELSE failing_since END
WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING *
