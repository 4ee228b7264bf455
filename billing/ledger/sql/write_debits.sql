-- A batch of debits as one statement and so as one transaction: a JSON array of arrays, whose elements are written here by
-- the names that they have in `Debit`, and known to Postgres by their places there. Whoever
-- inserts a request id first has decided; what the ledger moves (transfers, fresh usage, balances, corrections) comes from
-- the rows that were inserted, and from no others. A debit is a correction, numbered by its account, when Redis has not
-- counted it in the epoch that the account was last loaded for. Accounts are locked in the order of their ids, and
-- everything else here belongs to a locked account; one that does not exist has no id to insert, and the batch is refused.
--
-- A row that another transaction has locked is waited for as long as $2 says, whatever `lock_timeout` the session has: it is
-- set for this transaction, before the first row is locked.
--
-- A row of 41 columns is formed once, on its way into usage_events: until then a debit stays the JSON that it came as.
-- `= ANY (ARRAY(...))` reads accounts by their index, whatever the planner believes of the number of debits.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', $2::text, true) AS lock_timeout
), given AS MATERIALIZED (
    SELECT place, (d->>'account_id') AS account_id, (d->>'epoch')::bigint AS epoch, d
    FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS t (d, place)
), locked AS MATERIALIZED (
    SELECT id, hyd_epoch, xseq FROM accounts
    WHERE id = ANY (ARRAY(SELECT account_id FROM given)) AND (SELECT lock_timeout FROM patience) IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE
), numbered AS MATERIALIZED (
    SELECT place, locked.xseq + row_number() OVER (PARTITION BY locked.id ORDER BY place) AS xseq
    FROM given JOIN locked ON locked.id = given.account_id
    WHERE given.epoch IS DISTINCT FROM locked.hyd_epoch
), inserted AS (
    INSERT INTO usage_events (
        request_id, admitted_at, outcome, account_id,
        user_id, key_id, client_request_id, upstream_request_id,
        endpoint, feature, model, provider, provider_model,
        input_tokens, cached_input_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens, counts, cost_nano, charged_nano,
        price_id, multiplier, markup_scaled, estimated,
        status, stream, latency_ms, ttft_ms,
        tags, end_user, note, by_model, epoch, dseq, xseq,
        session, agent, parent_agent, tool, tool_version)
    SELECT
        d->>'request_id', timestamptz 'epoch' + (d->>'admitted_at_ms')::bigint * interval '1 millisecond',
        d->>'outcome', locked.id,
        d->>'user_id', d->>'key_id', d->>'client_request_id', d->>'upstream_request_id',
        d->>'endpoint', d->>'feature', d->>'model', d->>'provider', d->>'provider_model',
        (d->>'input_tokens')::bigint, (d->>'cached_input_tokens')::bigint, (d->>'cache_write_tokens')::bigint,
        (d->>'output_tokens')::bigint, (d->>'reasoning_tokens')::bigint, (d->>'counts')::jsonb,
        (d->>'cost_nano')::bigint, (d->>'charged_nano')::bigint,
        d->>'price_id', d->>'multiplier', (d->>'markup_scaled')::bigint, (d->>'estimated')::boolean,
        (d->>'status')::integer, (d->>'stream')::boolean, (d->>'latency_ms')::integer, (d->>'ttft_ms')::integer,
        (d->>'tags')::jsonb, d->>'end_user', d->>'note', (d->>'by_model')::jsonb, given.epoch, (d->>'dseq')::bigint, numbered.xseq,
        d->>'session', d->>'agent', d->>'parent_agent', d->>'tool', d->>'tool_version'
    FROM given LEFT JOIN locked ON locked.id = given.account_id LEFT JOIN numbered USING (place)
    ON CONFLICT DO NOTHING
    RETURNING request_id, admitted_at, outcome, account_id, user_id, key_id, endpoint, feature, model, provider, tags, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano, xseq,
        outcome = 'settled' OR input_tokens + output_tokens > 0 AS counted
), moved AS (
    INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, request_id)
    SELECT request_id, account_id, 'sys:revenue', charged_nano, 'usage', request_id FROM inserted WHERE charged_nano > 0
), corrected AS (
    INSERT INTO corrections (account_id, xseq, delta_nano, request_id, key_id, admitted_at_ms, model, feature,
        requests, input_tokens, output_tokens, cost_nano)
    SELECT account_id, xseq, -charged_nano, request_id, key_id,
        (extract(epoch FROM admitted_at) * 1000)::bigint, model, feature,
        counted::integer, input_tokens, output_tokens, charged_nano
    FROM inserted WHERE xseq IS NOT NULL
), used AS (
    INSERT INTO usage_fresh (admitted_at, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nano, charged_nano, account_id, key_id, model, feature, user_id, provider, endpoint, tags)
    SELECT admitted_at, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nano, charged_nano, account_id, key_id, model, feature, user_id, provider, endpoint, tags
    FROM inserted WHERE counted
), balanced AS (
    UPDATE accounts SET
        balance_nano = accounts.balance_nano - spent.charged_nano,
        xseq = greatest(accounts.xseq, spent.xseq)
    FROM (SELECT account_id, sum(charged_nano) AS charged_nano, max(xseq) AS xseq FROM inserted GROUP BY account_id) spent
    WHERE accounts.id = spent.account_id AND accounts.id = ANY (ARRAY(SELECT account_id FROM given))
)
SELECT request_id, outcome, xseq FROM inserted
