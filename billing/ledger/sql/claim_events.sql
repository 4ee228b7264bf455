-- Before a batch of debits (write_debits.sql), in the same statement: events of services are claimed by their ids, and
-- holds of services end, each once: the id of what settles a hold is claimed as every other. $3 is a JSON array of
-- arrays: account, event id, digest in hex, request id, answer, and the hold that it settles or null. Debits of what is
-- not `due` are not written. Locks are taken in one order: holds, events, accounts, each by their ids.
WITH asked AS MATERIALIZED (
    SELECT e->>0 AS account_id, e->>1 AS event_id, decode(e->>2, 'hex') AS digest, e->>3 AS request_id, e->>4 AS answer,
        e->>5 AS hold_id
    FROM jsonb_array_elements($3::text::jsonb) AS t (e)
), open AS MATERIALIZED (
    SELECT h.id FROM service_holds AS h JOIN asked AS a ON h.id = a.hold_id AND h.account_id = a.account_id
    WHERE h.state IN ('held', 'expired')
    ORDER BY h.id FOR NO KEY UPDATE OF h
), claimed AS (
    INSERT INTO service_events (account_id, event_id, digest, request_id, answer)
    SELECT account_id, event_id, digest, request_id, answer FROM asked
    WHERE hold_id IS NULL OR hold_id IN (SELECT id FROM open)
    ORDER BY account_id, event_id
    ON CONFLICT (account_id, event_id) DO NOTHING
    RETURNING request_id
), ended AS (
    UPDATE service_holds AS h
    SET state = 'settled', ended_at = now(), end_event_id = a.event_id, end_digest = a.digest, end_answer = a.answer
    FROM asked AS a JOIN claimed AS c USING (request_id)
    WHERE h.id = a.hold_id AND h.state IN ('held', 'expired')
    RETURNING h.id AS request_id
), due AS MATERIALIZED (
    SELECT c.request_id FROM claimed AS c JOIN asked AS a USING (request_id) WHERE a.hold_id IS NULL
    UNION ALL SELECT request_id FROM ended
)
