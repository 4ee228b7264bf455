-- Orders of plans of account $1 whose pages may be paid still, but for the newest order.
SELECT id, checkout_id FROM orders
WHERE account_id = $1 AND provider = $2 AND kind = 'plan' AND status IN ('open', 'failed') AND checkout_id IS NOT NULL
    AND id < (SELECT max(id) FROM orders WHERE account_id = $1 AND provider = $2 AND kind = 'plan')
ORDER BY id
