-- Each side of the ledger by its own index; a usage transfer never raises a customer's balance. The balance after each
-- is counted down from $4, what it was after the first one here; without that, from the account's own in the same
-- snapshot. Later pages are those of the list as it was at its first page, whose moment is $5 (when, in Unix seconds, and the
-- snapshot): what was settled since, and stands further down by the time of its request, is in no balance that was counted. What is
-- an hour older than that moment was there by then.
WITH list AS (
    SELECT coalesce($5, extract(epoch FROM now())::bigint || ':' || pg_current_snapshot()::text) AS moment
), first_page AS (
    SELECT moment, to_timestamp(split_part(moment, ':', 1)::bigint) - interval '1 hour' AS long_before,
        substr(moment, strpos(moment, ':') + 1)::pg_snapshot AS snapshot
    FROM list
)
SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at, first_page.moment,
    coalesce($4, (SELECT balance_nano FROM accounts WHERE id = $1)) - coalesce(
    sum(amount_nano) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS balance_nano
FROM first_page, LATERAL (
    (SELECT id, kind, -amount_nano AS amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE debit_account = $1 AND id < $2
        AND ($5::text IS NULL OR created_at < long_before OR seen_in(xmin, snapshot)) ORDER BY id DESC LIMIT $3)
    UNION ALL
    (SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id < $2
        AND ($5::text IS NULL OR created_at < long_before OR seen_in(xmin, snapshot)) ORDER BY id DESC LIMIT $3)
) AS both_sides
ORDER BY id DESC LIMIT $3
