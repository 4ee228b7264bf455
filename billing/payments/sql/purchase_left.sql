-- What is left of what transfers $2 have put on the balance of account $1, and of what refunds and disputes of it gave back.
SELECT coalesce(sum(l.left_now), 0)::bigint
FROM lots_now l JOIN transfers t ON t.id = l.transfer_id
WHERE l.account_id = $1 AND (t.id = ANY ($2::text[]) OR t.metadata ->> 'purchase_id' = ANY ($2::text[]))
