-- Write a batch of debits as write_debits.sql does, but leave out those of accounts whose rows are locked (SKIP LOCKED, and
-- a join that only locked accounts pass). write_new_debits.sql explains the rest.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', $2::text, true) AS lock_timeout
), given AS MATERIALIZED (
    SELECT place, d->>3 AS account_id, (d->>32)::bigint AS epoch, d
    FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS t (d, place)
), locked AS MATERIALIZED (
    SELECT id, hyd_epoch, xseq FROM accounts
    WHERE id = ANY (ARRAY(SELECT account_id FROM given)) AND (SELECT lock_timeout FROM patience) IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), numbered AS MATERIALIZED (
    SELECT place, locked.xseq + row_number() OVER (PARTITION BY locked.id ORDER BY place) AS xseq
    FROM given JOIN locked ON locked.id = given.account_id
    WHERE given.epoch IS DISTINCT FROM locked.hyd_epoch
), inserted AS (
    INSERT INTO usage_events (
        request_id, admitted_at, outcome,
        account_id, user_id, key_id, client_request_id, upstream_request_id,
        endpoint, feature, model, provider, provider_model,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, counts,
        cost_nano, charged_nano, price_id, multiplier, markup_scaled, estimated,
        status, stream, latency_ms, ttft_ms, tags, end_user, note,
        epoch, dseq, xseq, by_model,
        session, agent, parent_agent, tool, tool_version, attempts)
    SELECT
        d->>0, timestamptz 'epoch' + (d->>1)::bigint * interval '1 millisecond', d->>2,
        locked.id, d->>4, d->>5, d->>6, d->>7,
        d->>8, d->>9, d->>10, d->>11, d->>12,
        (d->>13)::bigint, (d->>14)::bigint, (d->>15)::bigint, (d->>16)::bigint, (d->>17)::bigint, (d->>18)::jsonb,
        (d->>19)::bigint, (d->>20)::bigint, d->>21, d->>22, (d->>23)::bigint, (d->>24)::boolean,
        (d->>25)::integer, (d->>26)::boolean, (d->>27)::integer, (d->>28)::integer, (d->>29)::jsonb, d->>30, d->>31,
        given.epoch, (d->>33)::bigint, numbered.xseq, (d->>35)::jsonb,
        d->>36, d->>37, d->>38, d->>39, d->>40, coalesce((d->>41)::integer, 1)
    FROM given JOIN locked ON locked.id = given.account_id LEFT JOIN numbered USING (place)
    ON CONFLICT DO NOTHING
    RETURNING request_id, admitted_at, outcome, account_id, user_id, key_id, endpoint, feature, model, provider, tags,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano,
        xseq, outcome = 'settled' OR input_tokens + output_tokens > 0 AS counted
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
