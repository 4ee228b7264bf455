-- Events and usage transfers that do not belong together one to one: a charged event has exactly the transfer with its
-- request id, from its account to revenue, of its amount; an event that charged nothing has none. Of an account whose
-- events of some months were dropped, the transfers without an event have to be as many, and of as much, as these had.
WITH events AS (
    SELECT request_id, count(*) AS times, min(account_id) AS account_id, sum(charged_nano) AS charged_nano
    FROM usage_events GROUP BY request_id
), moved AS (
    SELECT id, request_id, debit_account, credit_account, amount_nano FROM transfers WHERE kind = 'usage'
), compared AS MATERIALIZED (
    SELECT coalesce(events.request_id, moved.id) AS request_id, events.times, events.account_id, events.charged_nano,
        moved.debit_account, moved.credit_account, moved.amount_nano,
        events.times IS NULL AND moved.request_id IS NOT DISTINCT FROM moved.id AND moved.credit_account = 'sys:revenue'
            AND moved.debit_account IN (SELECT account_id FROM usage_months_dropped) AS of_dropped
    FROM events FULL JOIN moved ON moved.id = events.request_id
    WHERE events.times IS DISTINCT FROM 1
        OR events.charged_nano IS DISTINCT FROM coalesce(moved.amount_nano, 0)
        OR (moved.id IS NOT NULL AND (
            moved.request_id IS DISTINCT FROM moved.id
            OR moved.debit_account IS DISTINCT FROM events.account_id
            OR moved.credit_account <> 'sys:revenue'))
), dropped AS (
    SELECT account_id, sum(charges) AS charges, sum(charged_nano) AS charged_nano
    FROM usage_months_dropped GROUP BY account_id
), alone AS (
    SELECT debit_account AS account_id, count(*) AS transfers, sum(amount_nano) AS amount_nano
    FROM compared WHERE of_dropped GROUP BY debit_account
)
SELECT request_id, times, account_id, charged_nano, debit_account, credit_account, amount_nano,
    NULL::numeric AS charges, NULL::bigint AS transfers
FROM compared WHERE NOT of_dropped
UNION ALL
SELECT NULL, NULL, account_id, charged_nano, NULL, NULL, coalesce(amount_nano, 0), charges, coalesce(transfers, 0)
FROM dropped LEFT JOIN alone USING (account_id)
WHERE (charges, charged_nano) IS DISTINCT FROM (coalesce(transfers, 0)::numeric, coalesce(amount_nano, 0))
ORDER BY 1, 3
