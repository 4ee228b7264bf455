-- Judge gateway $1 dead, lock its row until the transaction ends, and mark it so that it notices if it runs on. No row where its
-- lease has another value than $2 by now (null: it had none), and it has not ended.
WITH missing AS (
    INSERT INTO gateways (id, lease_until, judged, ended_at)
    SELECT $1, now(), now(), now() WHERE $2::timestamptz IS NULL
    ON CONFLICT DO NOTHING
    RETURNING id
), standing AS (
    UPDATE gateways SET judged = lease_until
    WHERE id = $1 AND (lease_until = $2::timestamptz OR ended_at IS NOT NULL)
    RETURNING id
)
SELECT id FROM missing UNION ALL SELECT id FROM standing
