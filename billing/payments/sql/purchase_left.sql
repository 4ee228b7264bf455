-- What is left of a purchase: what refunds and disputes have not taken of it, as far as the balance has it.
SELECT greatest(0, least(a.balance_nano, o.amount_cents * 10000000 + coalesce(
    (SELECT sum(moved_nano) FROM payment_movements m WHERE m.order_id = o.id), 0)))::bigint
FROM orders o JOIN accounts a ON a.id = o.account_id WHERE o.id = $1
