-- What is left of the lots of an order: that of its purchase, and those of what refunds and disputes of it gave back.
SELECT coalesce(sum(l.left_now), 0)::bigint
FROM orders o
CROSS JOIN LATERAL (SELECT * FROM lots_now WHERE account_id = o.account_id) l
JOIN transfers t ON t.id = l.transfer_id AND (t.id = o.transfer_id OR t.metadata ->> 'purchase_id' = o.transfer_id)
WHERE o.id = $1
