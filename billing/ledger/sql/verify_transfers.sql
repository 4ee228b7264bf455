-- Events and usage transfers that do not belong together one to one: a charged event has exactly the transfer with its
-- request id, from its account to revenue, of its amount; an event that charged nothing has none.
WITH events AS (
    SELECT request_id, count(*) AS times, min(account_id) AS account_id, sum(charged_nano) AS charged_nano
    FROM usage_events GROUP BY request_id
), moved AS (
    SELECT id, request_id, debit_account, credit_account, amount_nano FROM transfers WHERE kind = 'usage'
)
SELECT coalesce(events.request_id, moved.id) AS request_id, events.times, events.account_id, events.charged_nano,
    moved.debit_account, moved.credit_account, moved.amount_nano
FROM events FULL JOIN moved ON moved.id = events.request_id
WHERE events.times IS DISTINCT FROM 1
    OR events.charged_nano IS DISTINCT FROM coalesce(moved.amount_nano, 0)
    OR (moved.id IS NOT NULL AND (
        moved.request_id IS DISTINCT FROM moved.id
        OR moved.debit_account IS DISTINCT FROM events.account_id
        OR moved.credit_account <> 'sys:revenue'))
ORDER BY 1
