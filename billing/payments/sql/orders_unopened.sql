-- End order $1, for which no page was ever opened.
UPDATE orders SET status = 'expired', updated_at = now() WHERE id = $1 AND checkout_id IS NULL AND status = 'open'
