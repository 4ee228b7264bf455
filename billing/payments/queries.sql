-- Statements of `billing.payments`, each under its name. `billing.database.connection.queries` reads them.

-- name: account_plans_apply
-- Give an account its plan ($2; null: as it is), and say whether it is past due, since $3. One that is suspended or closed
-- stays so; what is past due by hand, with $4 unset, stays so, too.
UPDATE accounts SET
    plan = coalesce($2, plan),
    past_due_since = CASE WHEN $4 THEN $3 ELSE past_due_since END,
    status = CASE
        WHEN NOT $4 OR status NOT IN ('active', 'past_due') THEN status
        WHEN $3::timestamptz IS NULL THEN 'active'
        ELSE 'past_due'
    END,
    version = version + 1
WHERE id = $1
RETURNING plan, status

-- name: account_plans_get
SELECT plan, standing, ends_at, next_plan FROM account_plans WHERE account_id = $1

-- name: account_plans_set
INSERT INTO account_plans (account_id, plan, standing, ends_at, next_plan) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account_id) DO UPDATE SET plan = excluded.plan, standing = excluded.standing, ends_at = excluded.ends_at,
    next_plan = excluded.next_plan, updated_at = now()

-- name: account_status
SELECT status FROM accounts WHERE id = $1

-- name: alerts_get
SELECT threshold_nano, armed FROM balance_alerts WHERE account_id = $1

-- name: alerts_look
-- Of $2 accounts after $1: those above their threshold (else $3) are armed, and those below that were are not any more and
-- are returned; and where the next look begins.
WITH page AS (
    SELECT a.id, a.balance_nano + a.credit_limit_nano AS available_nano, coalesce(b.armed, false) AS armed,
        coalesce(b.threshold_nano, $3::bigint) AS threshold_nano
    FROM accounts a LEFT JOIN balance_alerts b ON b.account_id = a.id
    WHERE a.id > $1 ORDER BY a.id LIMIT $2
), changed AS (
    INSERT INTO balance_alerts AS b (account_id, armed)
    SELECT id, available_nano >= threshold_nano FROM page WHERE (available_nano >= threshold_nano) <> armed
    ON CONFLICT (account_id) DO UPDATE SET armed = excluded.armed WHERE b.armed <> excluded.armed
    RETURNING account_id, armed
)
SELECT coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'account_id', id, 'available_nano', available_nano, 'threshold_nano', threshold_nano) ORDER BY id)
        FROM page JOIN changed ON changed.account_id = page.id WHERE NOT changed.armed
    ), '[]') AS crossed,
    CASE WHEN (SELECT count(*) FROM page) = $2 THEN (SELECT max(id) FROM page) ELSE '' END AS place

-- name: alerts_put
-- Set a threshold. A changed threshold is armed again by the next look at a balance above it.
INSERT INTO balance_alerts (account_id, threshold_nano) SELECT id, $2 FROM accounts WHERE id = $1
ON CONFLICT (account_id) DO UPDATE SET threshold_nano = excluded.threshold_nano, armed = false
RETURNING account_id

-- name: charges_page
-- Payments of status $5, newest first, from $3 on and before $4 (null: any time), behind the one whose id is $2. An
-- invoice that they pay says what of them was tax.
SELECT p.id, p.provider, p.account_id, p.created_at, p.order_id, o.kind AS order_kind, o.plan,
    p.state ->> 'status' AS status, p.state ->> 'decline_code' AS reason,
    p.state ->> 'invoice_id' AS invoice_id, p.state ->> 'currency' AS currency, p.state ->> 'receipt_url' AS receipt_url,
    (p.state ->> 'total_cents')::bigint AS total_cents, given.refunded_cents, given.disputed_cents,
    (bill.state ->> 'total_cents')::bigint - (bill.state ->> 'amount_cents')::bigint AS bill_tax_cents,
    (p.state ->> 'total_cents')::bigint - (p.state ->> 'amount_cents')::bigint AS own_tax_cents,
    bill.state ->> 'number' AS invoice_number, bill.state ->> 'hosted_url' AS invoice_url,
    bill.state ->> 'pdf_url' AS pdf_url
FROM payment_objects p
LEFT JOIN orders o ON o.id = p.order_id
LEFT JOIN payment_objects bill ON bill.provider = p.provider AND bill.kind = 'invoice' AND bill.id = p.state ->> 'invoice_id'
LEFT JOIN payment_objects last ON last.kind = 'payment' AND last.id = $2
CROSS JOIN LATERAL (
    SELECT
        (SELECT coalesce(sum((r ->> 'amount_cents')::bigint), 0)::bigint
         FROM jsonb_array_elements(p.state -> 'refunds') AS r
         WHERE r ->> 'status' NOT IN ('failed', 'canceled')) AS refunded_cents,
        (SELECT coalesce(-sum((m ->> 'amount_cents')::bigint), 0)::bigint
         FROM jsonb_array_elements(p.state -> 'disputes') AS d, jsonb_array_elements(d -> 'movements') AS m)
            AS disputed_cents
) AS given
WHERE p.kind = 'payment' AND p.state ->> 'status' = $5
    AND ($1::text IS NULL OR p.account_id = $1)
    AND ($2::text IS NULL OR (p.created_at, p.id) < (last.created_at, last.id))
    AND ($3::timestamptz IS NULL OR p.created_at >= $3)
    AND ($4::timestamptz IS NULL OR p.created_at < $4)
ORDER BY p.created_at DESC, p.id DESC LIMIT $6

-- name: charges_sums
-- What customers paid from $1 on and before $2, and what of these payments went back to them so far, in cents of $3.
SELECT count(*) AS payments, coalesce(sum((state ->> 'total_cents')::bigint), 0)::bigint AS paid_cents,
    coalesce(sum((
        SELECT sum((r ->> 'amount_cents')::bigint) FROM jsonb_array_elements(state -> 'refunds') AS r
        WHERE r ->> 'status' NOT IN ('failed', 'canceled')
    )), 0)::bigint AS refunded_cents,
    coalesce(-sum((
        SELECT sum((m ->> 'amount_cents')::bigint)
        FROM jsonb_array_elements(state -> 'disputes') AS d, jsonb_array_elements(d -> 'movements') AS m
    )), 0)::bigint AS disputed_cents
FROM payment_objects
WHERE kind = 'payment' AND state ->> 'status' = 'paid' AND state ->> 'currency' = $3
    AND created_at >= $1 AND created_at < $2

-- name: compared_ledger
-- What we have of payment $2, which order $4 asked for: whether it waits for an operator, and what was credited by it.
SELECT orders.id AS order_id, orders.account_id, orders.kind, orders.amount_cents, orders.payment_id,
    EXISTS (SELECT FROM payments_parked
        WHERE provider = $1 AND kind = 'payment' AND object_id = $2) AS parked,
    (SELECT amount_nano FROM transfers
        WHERE idempotency_scope = $5 AND idempotency_key = $3) AS credited_nano
FROM orders WHERE id = $4

-- name: compared_state
SELECT state, account_id, order_id FROM payment_objects WHERE provider = $1 AND kind = $2 AND id = $3

-- name: compared_unsettled
-- Payments whose refunds or disputes are not over, of whatever age, and those that orders were credited by since $2.
SELECT id FROM payment_objects
WHERE provider = $1 AND kind = 'payment' AND (state @> '{"disputes": [{"status": "open"}]}'
    OR state @> '{"disputes": [{"status": "warning"}]}' OR state @> '{"refunds": [{"status": "pending"}]}')
UNION
SELECT payment_id FROM orders WHERE provider = $1 AND credited_at >= $2 AND payment_id IS NOT NULL

-- name: comparisons_ask
INSERT INTO payment_comparisons (provider, asked_since) VALUES ($1, $2)
ON CONFLICT (provider) DO UPDATE SET asked_since = $2

-- name: comparisons_due
-- Begin the next comparison with provider $1 if it is due at $2, or an operator has asked for it; it looks back to what
-- they asked for, else to $3. It is due if none has begun since $4, or since $5 where the last one was broken off.
INSERT INTO payment_comparisons AS known (provider, since, began_at) VALUES ($1, $3, $2)
ON CONFLICT (provider) DO UPDATE
SET since = coalesce(known.asked_since, $3), began_at = $2, ended_at = NULL, asked_since = NULL, error = NULL
WHERE known.asked_since IS NOT NULL OR known.began_at IS NULL OR known.began_at <= $4
    OR (known.began_at <= $5 AND (known.ended_at IS NULL OR known.error IS NOT NULL))
RETURNING since

-- name: comparisons_end
-- A comparison is over: $3 objects were compared. What it found to differ no longer, and what is new, is in the list by now.
UPDATE payment_comparisons SET ended_at = $2, compared = $3, error = $4,
    differences = (SELECT count(*) FROM payment_differences WHERE provider = $1)
WHERE provider = $1

-- name: comparisons_get
SELECT asked_since, since, began_at, ended_at, compared, differences, error FROM payment_comparisons WHERE provider = $1

-- name: coupons_create
INSERT INTO coupons (id, name, code_sha256, amount_nano, priority, credit_days, expires_at, most_redemptions)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *

-- name: coupons_disable
UPDATE coupons SET disabled_at = now() WHERE id = $1 RETURNING *

-- name: coupons_lock
-- Lock a coupon by its id or by the digest of its code, so that redemptions at the same time wait for each other.
SELECT * FROM coupons WHERE id = $1 OR code_sha256 = $2 FOR UPDATE

-- name: coupons_page
SELECT * FROM coupons WHERE id < $1 ORDER BY id DESC LIMIT $2

-- name: customers_account
SELECT account_id FROM payment_customers WHERE provider = $1 AND customer_id = $2

-- name: customers_again
-- The next generation of an account's customer, begun once by all calls that failed in this one ($3).
UPDATE payment_customers SET generation = generation + 1
WHERE account_id = $1 AND provider = $2 AND generation = $3 AND customer_id IS NULL

-- name: customers_ask
INSERT INTO payment_customers (account_id, provider) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: customers_get
SELECT generation, customer_id, method FROM payment_customers WHERE account_id = $1 AND provider = $2

-- name: customers_gone
UPDATE payment_customers SET customer_id = NULL, method = NULL, generation = generation + 1
WHERE provider = $1 AND customer_id = $2

-- name: customers_made
WITH made AS (
    UPDATE payment_customers SET customer_id = $4
    WHERE account_id = $1 AND provider = $2 AND generation = $3 AND customer_id IS NULL
    RETURNING account_id
)
UPDATE accounts SET payment_customer_id = $4 FROM made WHERE accounts.id = made.account_id

-- name: customers_method
UPDATE payment_customers SET method = $3 WHERE provider = $1 AND customer_id = $2

-- name: deployment
SELECT deployment FROM installation

-- name: differences_end
DELETE FROM payment_differences WHERE provider = $1 AND kind = $2 AND id = $3

-- name: differences_list
SELECT kind, id, account_id, order_id, difference, found_at FROM payment_differences
WHERE provider = $1 ORDER BY found_at DESC, kind, id LIMIT $2

-- name: differences_set
INSERT INTO payment_differences (provider, kind, id, account_id, order_id, difference) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (provider, kind, id) DO UPDATE
SET account_id = excluded.account_id, order_id = excluded.order_id, difference = excluded.difference

-- name: events_claim
-- Take the event that is to be looked into next. It is tried again after $2 seconds, twice as long for each try before, at
-- most $3: also where whoever took it, gateway $4, dies and does not say.
UPDATE payment_events SET attempts = attempts + 1, claimed_by = $4,
    next_attempt_at = now() + least($3, $2 * 2.0 ^ least(attempts, 30)) * interval '1 second'
WHERE (provider, id) = (
    SELECT provider, id FROM payment_events
    WHERE state = 'waiting' AND provider = $1 AND next_attempt_at <= now()
    ORDER BY next_attempt_at, received_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, type, ref_kind, ref_id, attempts, now() AS taken_at

-- name: events_done
-- Mark as done every event of an object that had come before the object was fetched, at $4.
UPDATE payment_events SET state = 'done', error = NULL, ended_at = now()
WHERE state = 'waiting' AND provider = $1 AND ref_kind = $2 AND ref_id = $3 AND received_at <= $4

-- name: events_failed
-- A try failed, for the reason $3; with $4 for good: it waits for an operator.
UPDATE payment_events SET error = $3, claimed_by = NULL, state = CASE WHEN $4 THEN 'parked' ELSE state END,
    ended_at = CASE WHEN $4 THEN now() END
WHERE provider = $1 AND id = $2 AND state = 'waiting'

-- name: events_forget
-- Drop at most $2 events that ended more than $1 days ago; what waits for an operator stays.
WITH old AS (
    SELECT provider, id FROM payment_events
    WHERE received_at < now() - $1 * interval '1 day' AND state IN ('done', 'ignored') ORDER BY received_at LIMIT $2
), dropped AS (
    DELETE FROM payment_events USING old
    WHERE payment_events.provider = old.provider AND payment_events.id = old.id RETURNING 1
)
SELECT count(*) FROM dropped

-- name: events_page
SELECT number, provider, id, type, ref_kind, ref_id, livemode, state, attempts, error, created_at, received_at, next_attempt_at,
    ended_at
FROM payment_events
WHERE number < $1 AND ($2::text IS NULL OR state = $2)
ORDER BY number DESC LIMIT $3

-- name: events_release
-- Have events looked into now whose gateway has died, or has lost its lease.
UPDATE payment_events SET next_attempt_at = now(), claimed_by = NULL
WHERE state = 'waiting' AND claimed_by IS NOT NULL
    AND NOT EXISTS (SELECT FROM gateways WHERE id = claimed_by AND ended_at IS NULL AND lease_until > now())

-- name: events_replay
-- Have an event looked into again, whatever has become of it.
UPDATE payment_events SET state = CASE WHEN ref_id IS NULL THEN state ELSE 'waiting' END, attempts = 0, error = NULL,
    next_attempt_at = now(), received_at = now(), ended_at = NULL
WHERE id = $1
RETURNING number, provider, id, type, ref_kind, ref_id, livemode, state, attempts, error, created_at, received_at,
    next_attempt_at, ended_at

-- name: events_standing
SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'parked') AS parked,
    coalesce(extract(epoch FROM now() - min(received_at) FILTER (WHERE state = 'waiting')), 0)::float8 AS lag_s
FROM payment_events WHERE state IN ('waiting', 'parked')

-- name: events_store
-- Keep an event as it came, once; no row for one that is known.
INSERT INTO payment_events (provider, id, type, ref_kind, ref_id, livemode, body, state, error, created_at, number, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CASE WHEN $8 = 'ignored' THEN now() END)
ON CONFLICT (provider, id) DO NOTHING
RETURNING id

-- name: invoice_in_force
-- The subscription which has not ended whose present period, or with $3 any period, invoice $2 is for.
SELECT s.id FROM payment_objects o JOIN subscriptions s ON s.provider = o.provider AND s.id = o.state ->> 'subscription_id'
WHERE o.provider = $1 AND o.kind = 'invoice' AND o.id = $2 AND s.status <> 'canceled' AND ($3 OR EXISTS (
    SELECT FROM jsonb_array_elements(o.state -> 'lines') line
    WHERE line ->> 'kind' = 'subscription' AND (line ->> 'period_end')::timestamptz = s.period_end))

-- name: keys_forget
-- Drop at most $2 keys that nobody has asked for in the time $1.
DELETE FROM spent_payment_keys WHERE key IN (
    SELECT key FROM spent_payment_keys WHERE spent_at < now() - $1::interval ORDER BY spent_at LIMIT $2)

-- name: keys_generation
-- Return the generation of a key, which is asked for again: it is kept from now on. No row: the first one.
UPDATE spent_payment_keys SET spent_at = now() WHERE key = $1 RETURNING generation

-- name: keys_spent
-- Begin the generation after $2 of a key, once for all calls that failed in this one.
INSERT INTO spent_payment_keys AS spent (key, generation) VALUES ($1, $2 + 1)
ON CONFLICT (key) DO UPDATE SET generation = excluded.generation, spent_at = now() WHERE spent.generation = $2

-- name: lots_due
-- Lots that expire by $1, the oldest first, after the place ($2, $3), $4 at most.
SELECT id, account_id, expires_at FROM lots
WHERE left_nano > 0 AND expires_at <= $1 AND (expires_at, id) > ($2, $3)
ORDER BY expires_at, id LIMIT $4

-- name: movements_add
INSERT INTO payment_movements (provider, kind, id, order_id, amount_cents, moved_nano, transfers, free_nano)
VALUES ($1, $2, $3, $4, $5, $6, 1, $7)
ON CONFLICT (provider, kind, id) DO UPDATE SET
    moved_nano = payment_movements.moved_nano + excluded.moved_nano, transfers = payment_movements.transfers + 1,
    free_nano = least(payment_movements.free_nano, excluded.free_nano)

-- name: movements_of
-- Return what refunds and movements of disputes with these ids have moved so far.
SELECT kind, id, moved_nano, transfers, free_nano FROM payment_movements WHERE provider = $1 AND id = ANY ($2::text[])

-- name: objects_applied
UPDATE payment_objects SET
    applied = $4, state = $5, account_id = coalesce($6, account_id), order_id = coalesce($7, order_id),
    created_at = coalesce($8, created_at), updated_at = now()
WHERE provider = $1 AND kind = $2 AND id = $3

-- name: objects_ask
INSERT INTO payment_objects (provider, kind, id, asked) VALUES ($1, $2, $3, 1)
ON CONFLICT (provider, kind, id) DO UPDATE SET asked = payment_objects.asked + 1
RETURNING asked

-- name: objects_lock
SELECT applied, state FROM payment_objects WHERE provider = $1 AND kind = $2 AND id = $3 FOR NO KEY UPDATE

-- name: objects_page
SELECT o.state FROM payment_objects o
LEFT JOIN payment_objects last ON last.provider = o.provider AND last.kind = o.kind AND last.id = $4
WHERE o.provider = $1 AND o.kind = $2 AND o.account_id = $3 AND o.state IS NOT NULL
    AND ($4::text IS NULL OR (o.created_at, o.id) < (last.created_at, last.id))
ORDER BY o.created_at DESC, o.id DESC LIMIT $5

-- name: orders_abandoned
-- Orders of account $1 that may be paid still, but for the $3 newest; $4 at most, the oldest first.
SELECT id, checkout_id FROM (
    SELECT id, checkout_id FROM orders
    WHERE account_id = $1 AND provider = $2 AND kind <> 'recharge' AND status IN ('open', 'failed')
    ORDER BY id DESC OFFSET $3
) older
ORDER BY id LIMIT $4

-- name: orders_create
-- Create an order. A repeated idempotency key of the account inserts nothing: the caller reads the first order.
INSERT INTO orders (id, account_id, kind, amount_cents, plan, provider, urls, save_method, idempotency_key, request_digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (account_id, idempotency_key) DO NOTHING
RETURNING *

-- name: orders_credited
UPDATE orders SET
    status = 'credited', credited_at = coalesce(credited_at, now()), transfer_id = coalesce(transfer_id, $2),
    payment_id = coalesce($3, payment_id), subscription_id = coalesce(subscription_id, $4), reason = NULL,
    updated_at = now()
WHERE id = $1
RETURNING *

-- name: orders_failed
UPDATE orders SET status = 'failed', reason = $2, updated_at = now()
WHERE id = $1 AND status = 'open'
RETURNING *

-- name: orders_get
SELECT * FROM orders WHERE id = $1 AND account_id = coalesce($2, account_id)

-- name: orders_lock
SELECT * FROM orders WHERE id = $1 FOR NO KEY UPDATE

-- name: orders_lock_of_payment
SELECT * FROM orders WHERE provider = $1 AND payment_id = $2 FOR NO KEY UPDATE

-- name: orders_lock_of_subscription
SELECT * FROM orders WHERE provider = $1 AND subscription_id = $2 ORDER BY id DESC LIMIT 1 FOR NO KEY UPDATE

-- name: orders_of_checkout
-- What a hosted page has come to: a subscription, or that nobody paid in time. Its payment is noted when it is applied.
UPDATE orders SET
    subscription_id = coalesce(subscription_id, $3),
    status = CASE WHEN $4 AND status IN ('open', 'failed') THEN 'expired' ELSE status END,
    updated_at = now()
WHERE id = $1 AND provider = $2

-- name: orders_of_key
SELECT * FROM orders WHERE account_id = $1 AND idempotency_key = $2

-- name: orders_opened
-- Note the page that was opened for an order, unless another call has noted one meanwhile.
UPDATE orders SET
    customer_id = $2, checkout_id = coalesce(checkout_id, $3), url = coalesce(url, $4),
    expires_at = coalesce(expires_at, $5), updated_at = now()
WHERE id = $1
RETURNING *

-- name: orders_overdue
SELECT id, checkout_id FROM orders WHERE status = 'open' AND expires_at < $1 ORDER BY expires_at LIMIT $2

-- name: orders_page
SELECT * FROM orders
WHERE id < $1 AND account_id = coalesce($2, account_id) AND status = coalesce($3, status)
ORDER BY id DESC LIMIT $4

-- name: orders_replaced
-- Orders of plans of account $1 whose pages may be paid still, or were paid for a subscription that was not seen yet, but
-- for the newest order.
SELECT id, checkout_id FROM orders
WHERE account_id = $1 AND provider = $2 AND kind = 'plan' AND status IN ('open', 'failed', 'paid') AND checkout_id IS NOT NULL
    AND id < (SELECT max(id) FROM orders WHERE account_id = $1 AND provider = $2 AND kind = 'plan')
ORDER BY id

-- name: orders_settle
UPDATE orders SET
    status = $2, payment_id = $3, customer_id = coalesce(customer_id, $4), refunded_cents = $5, disputed_cents = $6,
    reason = $7, updated_at = now()
WHERE id = $1
RETURNING *

-- name: orders_standing
-- Count payments that wait for an operator, and automatic charges that the provider has not decided about in a day.
SELECT (SELECT count(*) FROM payments_parked WHERE state = 'parked') AS parked,
    (SELECT count(*) FROM orders
    WHERE status = 'open' AND kind = 'recharge' AND created_at < now() - interval '1 day') AS undecided

-- name: orders_overdue
-- Checkouts of orders whose page has ended within the last day and that nobody has heard of since: $2 at most.
SELECT checkout_id FROM orders
WHERE provider = $1 AND status IN ('open', 'failed') AND checkout_id IS NOT NULL
    AND expires_at BETWEEN now() - interval '1 day' AND now() - interval '1 minute'
ORDER BY expires_at LIMIT $2

-- name: orders_expire
-- End orders whose page has ended a day ago, or never was: nothing comes of them any more.
UPDATE orders SET status = 'expired', updated_at = now()
WHERE provider = $1 AND kind <> 'recharge' AND status IN ('open', 'failed')
    AND coalesce(expires_at, created_at) < now() - interval '1 day'

-- name: orders_unopened
-- End order $1, for which no page was ever opened.
UPDATE orders SET status = 'expired', updated_at = now() WHERE id = $1 AND checkout_id IS NULL AND status = 'open'

-- name: parked_add
INSERT INTO payments_parked (id, provider, kind, object_id, account_id, order_id, amount_cents, currency, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (provider, kind, object_id) DO NOTHING

-- name: parked_credited
-- Return the account that an operator has credited payment $2 to.
SELECT t.credit_account FROM payments_parked p JOIN transfers t ON t.id = p.transfer_id
WHERE p.provider = $1 AND p.kind = 'payment' AND p.object_id = $2 AND p.state = 'credited'

-- name: parked_end
UPDATE payments_parked SET state = $2, transfer_id = $3, note = $4, ended_at = now() WHERE id = $1
RETURNING *

-- name: parked_lock
SELECT * FROM payments_parked WHERE id = $1 OR (order_id = $1 AND state = 'parked') ORDER BY id LIMIT 1 FOR NO KEY UPDATE

-- name: parked_of_object
SELECT * FROM payments_parked WHERE provider = $1 AND kind = $2 AND object_id = $3 FOR NO KEY UPDATE

-- name: parked_order
SELECT order_id FROM payments_parked WHERE id = $1 OR (order_id = $1 AND state = 'parked')

-- name: parked_page
SELECT * FROM payments_parked WHERE id < $1 AND state = $2 ORDER BY id DESC LIMIT $3

-- name: purchase_left
-- What is left of what transfers $2 have put on the balance of account $1, and of what refunds and disputes of it gave back.
SELECT coalesce(sum(l.left_now), 0)::bigint
FROM lots_now l JOIN transfers t ON t.id = l.transfer_id
WHERE l.account_id = $1 AND (t.id = ANY ($2::text[]) OR t.metadata ->> 'purchase_id' = ANY ($2::text[]))

-- name: raised_by
-- What a payment, or the lines of an invoice, have put on the balance of account $3: transfers whose idempotency key, in
-- scope $1, is $2 or begins with it.
SELECT id, amount_nano FROM transfers
WHERE idempotency_scope = $1 AND (idempotency_key = $2 OR starts_with(idempotency_key, $2 || ':')) AND credit_account = $3
ORDER BY id

-- name: recharges_begin
-- Begin an attempt; one that was interrupted goes on under its number.
UPDATE auto_recharges SET attempt = attempt + (state <> 'charging')::integer, state = 'charging', next_attempt_at = $2,
    updated_at = now()
WHERE account_id = $1 RETURNING *

-- name: recharges_due
-- Of $3 accounts with auto-recharge from $2 on, those to charge by $1, $4 at most; and where the next look begins.
WITH page AS (
    SELECT r.account_id, r.next_attempt_at <= $1 AND (r.state = 'charging' OR (
        a.status IN ('active', 'past_due') AND a.balance_nano + a.credit_limit_nano < r.threshold_nano)) AS is_due
    FROM auto_recharges r JOIN accounts a ON a.id = r.account_id
    WHERE r.state IN ('ready', 'waiting', 'capped', 'charging') AND r.account_id > $2
    ORDER BY r.account_id LIMIT $3
), due AS (
    SELECT account_id FROM page WHERE is_due ORDER BY account_id LIMIT $4
)
SELECT ARRAY(SELECT account_id FROM due ORDER BY account_id) AS due, CASE
    WHEN (SELECT count(*) FROM due) = $4 THEN (SELECT max(account_id) FROM due)
    WHEN (SELECT count(*) FROM page) = $3 THEN (SELECT max(account_id) FROM page)
    ELSE '' END AS place

-- name: recharges_ended
UPDATE auto_recharges SET state = $2, reason = $3, url = $4, declines = $5, next_attempt_at = $6,
    enabled = enabled AND $2 <> 'stopped', updated_at = now()
WHERE account_id = $1

-- name: recharges_get
SELECT * FROM auto_recharges WHERE account_id = $1

-- name: recharges_lock
SELECT * FROM auto_recharges WHERE account_id = $1 FOR UPDATE

-- name: recharges_put
-- Set what an account asks of auto-recharge. Counts start again, but for an attempt under way, which ends first.
INSERT INTO auto_recharges AS r (account_id, enabled, threshold_nano, amount_cents, monthly_cap_cents, state, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $2 THEN 'ready' ELSE 'off' END, $6)
ON CONFLICT (account_id) DO UPDATE SET
    enabled = excluded.enabled, threshold_nano = excluded.threshold_nano, amount_cents = excluded.amount_cents,
    monthly_cap_cents = excluded.monthly_cap_cents,
    state = CASE WHEN r.state = 'charging' THEN r.state ELSE excluded.state END,
    next_attempt_at = CASE WHEN r.state = 'charging' THEN r.next_attempt_at ELSE excluded.next_attempt_at END,
    reason = NULL, url = NULL, declines = 0, updated_at = now()
RETURNING *

-- name: recharges_spent
-- What auto-recharge has charged account $1 since $2, or may still charge, but for the order of key $3.
SELECT coalesce(sum(amount_cents), 0)::bigint FROM orders
WHERE account_id = $1 AND kind = 'recharge' AND created_at >= $2 AND status NOT IN ('failed', 'expired')
    AND idempotency_key <> $3

-- name: recharges_wanted
-- Whether account $1 may be charged now and is below the threshold of its wish, whose row the caller has locked.
SELECT a.status IN ('active', 'past_due') AND a.balance_nano + a.credit_limit_nano < r.threshold_nano
FROM auto_recharges r JOIN accounts a ON a.id = r.account_id WHERE r.account_id = $1

-- name: redemptions_add
WITH counted AS (UPDATE coupons SET redemptions = redemptions + 1 WHERE id = $1),
redeemed AS (
    INSERT INTO coupon_redemptions (coupon_id, account_id, transfer_id, redeemed_by) VALUES ($1, $2, $3, $4)
    RETURNING coupon_id, account_id)
INSERT INTO coupon_owners (coupon_id, user_id, account_id)
SELECT redeemed.coupon_id, m.user_id, redeemed.account_id FROM redeemed
JOIN organizations o ON o.account_id = redeemed.account_id
JOIN memberships m ON m.org_id = o.id AND m.role = 'owner'

-- name: redemptions_at
-- Return when coupon $1 was redeemed by account $2, or by another account that an owner of this one owns now or owned
-- then. Who typed the code makes no difference.
WITH owners AS (
    SELECT m.user_id FROM organizations o JOIN memberships m ON m.org_id = o.id AND m.role = 'owner'
    WHERE o.account_id = $2),
theirs AS (
    SELECT $2 AS account_id
    UNION SELECT o.account_id FROM owners
        JOIN memberships m ON m.user_id = owners.user_id AND m.role = 'owner'
        JOIN organizations o ON o.id = m.org_id
    UNION SELECT had.account_id FROM owners
        JOIN coupon_owners had ON had.coupon_id = $1 AND had.user_id = owners.user_id)
SELECT r.account_id, r.redeemed_at FROM coupon_redemptions r JOIN theirs USING (account_id)
WHERE r.coupon_id = $1
ORDER BY r.account_id = $2 DESC LIMIT 1

-- name: refunds_ask
INSERT INTO order_refunds (order_id, key, amount_cents) VALUES ($1, $2, $3)

-- name: refunds_asked
-- What was asked to give back of order $1.
SELECT key, amount_cents, refund_id, created_at FROM order_refunds WHERE order_id = $1 ORDER BY created_at, key

-- name: refunds_made
UPDATE order_refunds SET refund_id = $3 WHERE order_id = $1 AND key = $2

-- name: refunds_refused
DELETE FROM order_refunds WHERE order_id = $1 AND key = $2 AND refund_id IS NULL

-- name: returns_page
-- Refunds and movements of disputes ($2; null: both), newest first, from $3 on and before $4, of account $1 (null: all),
-- behind the time $5 and the id $6.
SELECT r.* FROM payment_returns r
WHERE ($1::text IS NULL OR r.account_id = $1) AND ($2::text IS NULL OR r.kind = $2)
    AND ($3::timestamptz IS NULL OR r.created_at >= $3) AND ($4::timestamptz IS NULL OR r.created_at < $4)
    AND ($5::timestamptz IS NULL OR (r.created_at, r.id) < ($5, $6))
ORDER BY r.created_at DESC, r.id DESC LIMIT $7

-- name: revenue_money
-- What came in, failed and went back from $1 on and before $2, by each day or month ($3) of UTC in which that happened,
-- in cents of $4. Movements that bring a disputed amount back are no dispute of their own.
SELECT kind, date_trunc($3, created_at, 'UTC') AS start, count(*) FILTER (WHERE cents >= 0) AS number,
    sum(cents)::bigint AS cents
FROM (
    SELECT state ->> 'status' AS kind, created_at, (state ->> 'total_cents')::bigint AS cents FROM payment_objects
    WHERE kind = 'payment' AND state ->> 'status' IN ('paid', 'failed') AND state ->> 'currency' = $4
        AND created_at >= $1 AND created_at < $2
    UNION ALL
    SELECT kind, created_at, cents FROM payment_returns
    WHERE currency = $4 AND created_at >= $1 AND created_at < $2
) AS happened
GROUP BY kind, start

-- name: revenue_mrr
-- By how much what subscriptions bring a month, and their number, have changed before $1 (a null start), and from then on
-- and before $2 in each day or month ($3) of UTC.
SELECT CASE WHEN created_at >= $1 THEN date_trunc($3, created_at, 'UTC') END AS start,
    sum(mrr_nano - before)::bigint AS mrr_nano,
    sum((mrr_nano > 0)::integer - (before > 0)::integer)::bigint AS subscribers
FROM (
    SELECT created_at, mrr_nano, lag(mrr_nano, 1, 0::bigint) OVER (PARTITION BY provider, id ORDER BY created_at) AS before
    FROM subscription_changes WHERE created_at < $2
) AS changes
GROUP BY start

-- name: revenue_plans
-- How many subscriptions are paid for by plan, and what these bring a month.
SELECT plan, count(*) AS subscribers, sum(mrr_nano)::bigint AS mrr_nano FROM (
    SELECT DISTINCT ON (provider, id) plan, mrr_nano FROM subscription_changes ORDER BY provider, id, created_at DESC
) AS last
WHERE mrr_nano > 0 GROUP BY plan

-- name: subscriptions_ask
UPDATE subscriptions SET asked = asked + 1 WHERE provider = $1 AND id = $2 RETURNING asked

-- name: subscriptions_count
-- Note what subscription $2 brings a month where that has changed: the price of its plan now ($3) while it is paid for,
-- also while a payment is overdue, from its beginning, else from $4 on.
INSERT INTO subscription_changes (provider, id, created_at, plan, mrr_nano)
SELECT s.provider, s.id, CASE WHEN last.plan IS NULL THEN s.created_at ELSE greatest($4, last.created_at) END, s.plan, now_nano
FROM subscriptions s
LEFT JOIN LATERAL (
    SELECT plan, mrr_nano, created_at FROM subscription_changes c WHERE c.provider = s.provider AND c.id = s.id
    ORDER BY created_at DESC LIMIT 1
) AS last ON true
CROSS JOIN LATERAL (
    SELECT CASE WHEN s.status NOT IN ('active', 'past_due') OR s.plan IS NULL THEN 0
        WHEN s.plan = last.plan AND last.mrr_nano > 0 THEN last.mrr_nano ELSE $3 END AS now_nano
) AS present
WHERE s.provider = $1 AND s.id = $2
    AND (now_nano <> coalesce(last.mrr_nano, 0) OR (now_nano > 0 AND s.plan <> last.plan))
ON CONFLICT (provider, id, created_at) DO UPDATE SET plan = excluded.plan, mrr_nano = excluded.mrr_nano

-- name: subscriptions_of
SELECT * FROM subscriptions WHERE account_id = $1 ORDER BY created_at, id

-- name: subscriptions_overdue
-- Return accounts whose days of grace are over and whose plan has not been changed for it yet.
SELECT s.account_id FROM subscriptions s JOIN account_plans p ON p.account_id = s.account_id AND p.standing = 'past_due'
WHERE s.past_due_since IS NOT NULL GROUP BY s.account_id HAVING max(s.past_due_since) <= $1 LIMIT $2

-- name: subscriptions_paid
-- Subscriptions that are paid for, of plan $1 (null: any), newest first, behind the one whose id is $2.
SELECT s.id, s.provider, s.account_id, s.plan, s.status, s.period_end, s.ends_at, s.created_at, last.mrr_nano
FROM subscriptions s
CROSS JOIN LATERAL (
    SELECT mrr_nano FROM subscription_changes c WHERE c.provider = s.provider AND c.id = s.id
    ORDER BY c.created_at DESC LIMIT 1
) AS last
LEFT JOIN subscriptions before ON before.id = $2
WHERE last.mrr_nano > 0 AND ($1::text IS NULL OR s.plan = $1)
    AND ($2::text IS NULL OR (s.created_at, s.id) < (before.created_at, before.id))
ORDER BY s.created_at DESC, s.id DESC LIMIT $3

-- name: subscriptions_see
-- Store a subscription's present state. Its plan stays where its price has none any more; `past_due_since` while it is past due.
INSERT INTO subscriptions (provider, id, account_id, status, plan, next_plan, period_start, period_end, ends_at, past_due_since,
    created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (provider, id) DO UPDATE SET status = excluded.status, plan = coalesce(excluded.plan, subscriptions.plan),
    next_plan = excluded.next_plan, period_start = excluded.period_start, period_end = excluded.period_end,
    ends_at = excluded.ends_at,
    past_due_since = CASE WHEN excluded.past_due_since IS NOT NULL
        THEN coalesce(subscriptions.past_due_since, excluded.past_due_since) END,
    updated_at = now()
WHERE subscriptions.account_id = excluded.account_id
RETURNING account_id
