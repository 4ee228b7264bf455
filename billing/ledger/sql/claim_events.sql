-- Before a batch of debits (write_debits.sql), in the same statement: events of services are claimed by their ids, and
-- holds of services end, each once. $3 is a JSON array of arrays: account, event id, digest in hex, request id, answer,
-- and the hold that it settles or null. Debits of what is not `due` are not written.
WITH asked AS MATERIALIZED (
    SELECT e->>0 AS account_id, e->>1 AS event_id, decode(e->>2, 'hex') AS digest, e->>3 AS request_id, e->>4 AS answer,
        e->>5 AS hold_id
    FROM jsonb_array_elements($3::text::jsonb) AS t (e)
), claimed AS (
    INSERT INTO service_events (account_id, event_id, digest, request_id, answer)
    SELECT account_id, event_id, digest, request_id, answer FROM asked WHERE hold_id IS NULL
    ORDER BY account_id, event_id
    ON CONFLICT (account_id, event_id) DO NOTHING
    RETURNING request_id
), ended AS (
    UPDATE service_holds AS h
    SET state = 'settled', ended_at = now(), end_event_id = a.event_id, end_digest = a.digest, end_answer = a.answer
    FROM asked AS a
    WHERE h.id = a.hold_id AND h.account_id = a.account_id AND h.state IN ('held', 'expired')
    RETURNING h.id AS request_id
), due AS MATERIALIZED (
    SELECT request_id FROM claimed UNION ALL SELECT request_id FROM ended
)
