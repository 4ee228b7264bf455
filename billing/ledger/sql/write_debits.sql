-- A batch of debits, a JSON array of arrays in the order of `Debit`, as one statement and so as one transaction. Whoever
-- inserts a request id first has decided; what the ledger moves (transfers, rollups, balances, corrections) comes from the
-- rows that were inserted, and from no others. A debit is a correction, numbered by its account, when Redis has not counted
-- it in the epoch that the account was last loaded for. Accounts are locked in the order of their ids, and everything else
-- here belongs to a locked account.
WITH given AS MATERIALIZED (
    SELECT
        (d->>0) AS request_id, (d->>1)::bigint AS admitted_at_ms, (d->>2) AS outcome, (d->>3) AS account_id,
        (d->>4) AS user_id, (d->>5) AS key_id, (d->>6) AS client_request_id, (d->>7) AS upstream_request_id,
        (d->>8) AS endpoint, (d->>9) AS feature, (d->>10) AS model, (d->>11) AS provider, (d->>12) AS provider_model,
        (d->>13)::bigint AS input_tokens, (d->>14)::bigint AS cached_input_tokens,
        (d->>15)::bigint AS cache_write_tokens, (d->>16)::bigint AS output_tokens,
        (d->>17)::bigint AS reasoning_tokens, (d->>18) AS counts, (d->>19)::bigint AS cost_nano,
        (d->>20)::bigint AS charged_nano, (d->>21) AS price_id, (d->>22) AS multiplier,
        (d->>23)::bigint AS markup_scaled, (d->>24)::boolean AS estimated, (d->>25)::integer AS status,
        (d->>26)::boolean AS stream, (d->>27)::integer AS latency_ms, (d->>28)::integer AS ttft_ms, (d->>29) AS tags,
        (d->>30) AS end_user, (d->>31) AS note, (d->>32)::bigint AS epoch, (d->>33)::bigint AS dseq,
        place
    FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS t (d, place)
), locked AS (
    SELECT id, hyd_epoch, xseq FROM accounts
    WHERE id IN (SELECT account_id FROM given) ORDER BY id FOR NO KEY UPDATE
), numbered AS (
    SELECT given.*,
        CASE WHEN given.epoch IS DISTINCT FROM locked.hyd_epoch THEN locked.xseq + row_number() OVER (
            PARTITION BY given.account_id, given.epoch IS DISTINCT FROM locked.hyd_epoch ORDER BY place) END AS xseq
    FROM given JOIN locked ON locked.id = given.account_id
), inserted AS (
    INSERT INTO usage_events (
        request_id, admitted_at, outcome, account_id, user_id, key_id, client_request_id, upstream_request_id, endpoint,
        feature, model, provider, provider_model,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, counts,
        cost_nano, charged_nano, price_id, multiplier, markup_scaled, estimated, status,
        stream, latency_ms, ttft_ms, tags, end_user, note, epoch, dseq, xseq)
    SELECT
        request_id, timestamptz 'epoch' + admitted_at_ms * interval '1 millisecond', outcome, account_id, user_id, key_id,
        client_request_id, upstream_request_id, endpoint, feature, model, provider, provider_model,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, counts::jsonb,
        cost_nano, charged_nano, price_id, multiplier, markup_scaled, estimated, status,
        stream, latency_ms, ttft_ms, tags::jsonb, end_user, note, epoch, dseq, xseq
    FROM numbered ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING *, CASE WHEN outcome = 'settled' OR input_tokens + output_tokens > 0 THEN 1 ELSE 0 END AS counted
), moved AS (
    INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, request_id)
    SELECT request_id, account_id, 'sys:revenue', charged_nano, 'usage', request_id FROM inserted WHERE charged_nano > 0
), corrected AS (
    INSERT INTO corrections (account_id, xseq, delta_nano, request_id, key_id, admitted_at_ms, model, feature,
        requests, input_tokens, output_tokens, cost_nano)
    SELECT account_id, xseq, -charged_nano, request_id, key_id,
        (extract(epoch FROM admitted_at) * 1000)::bigint, model, feature,
        counted, input_tokens, output_tokens, charged_nano
    FROM inserted WHERE xseq IS NOT NULL
), rolled AS (
    INSERT INTO usage_rollups AS r (account_id, granularity, bucket, key_id, model, feature, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT account_id, g.code, date_trunc(g.unit, admitted_at, 'UTC') AS bucket, key_id, model, feature, sum(counted),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM inserted CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    WHERE counted > 0
    GROUP BY account_id, g.code, bucket, key_id, model, feature
    ON CONFLICT (account_id, granularity, bucket, key_id, model, feature) DO UPDATE SET
        requests = r.requests + excluded.requests,
        input_tokens = r.input_tokens + excluded.input_tokens,
        cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens,
        reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = r.cost_nano + excluded.cost_nano,
        charged_nano = r.charged_nano + excluded.charged_nano
), balanced AS (
    UPDATE accounts SET
        balance_nano = accounts.balance_nano - spent.charged_nano,
        xseq = greatest(accounts.xseq, spent.xseq)
    FROM (SELECT account_id, sum(charged_nano) AS charged_nano, max(xseq) AS xseq FROM inserted GROUP BY account_id) spent
    WHERE accounts.id = spent.account_id
)
SELECT request_id, outcome, charged_nano, xseq FROM inserted
