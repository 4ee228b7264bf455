-- Count payments that wait for an operator, and automatic charges that the provider has not decided about in a day.
SELECT (SELECT count(*) FROM payments_parked WHERE state = 'parked') AS parked,
    (SELECT count(*) FROM orders
    WHERE status = 'open' AND kind = 'recharge' AND created_at < now() - interval '1 day') AS undecided
