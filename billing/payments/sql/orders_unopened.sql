-- Nobody was ever given a page of order $1.
UPDATE orders SET status = 'expired', updated_at = now() WHERE id = $1 AND checkout_id IS NULL AND status = 'open'
