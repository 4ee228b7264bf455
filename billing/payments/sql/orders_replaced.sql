-- Orders of plans of account $1 whose pages may be paid still, or were paid for a subscription that was not seen yet, but
-- for the newest order.
SELECT id, checkout_id FROM orders
WHERE account_id = $1 AND provider = $2 AND kind = 'plan' AND status IN ('open', 'failed', 'paid') AND checkout_id IS NOT NULL
    AND id < (SELECT max(id) FROM orders WHERE account_id = $1 AND provider = $2 AND kind = 'plan')
ORDER BY id
