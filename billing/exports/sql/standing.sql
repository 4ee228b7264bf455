-- How far export $1 is, or each of them: at most how many events wait, how long the oldest has, and what is parked.
SELECT x.name, x.kind, x.failures, x.error, x.accepted_at, x.created_at,
    greatest(0, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written) - x.wseq)::bigint AS waiting,
    coalesce(greatest(extract(epoch FROM now() - first.created_at), extract(epoch FROM now() - due.asked_at), 0), 0)::float AS lag_s,
    (SELECT count(*) FROM export_parked AS p WHERE p.export = x.name) AS parked
FROM exports AS x
LEFT JOIN LATERAL (
    SELECT e.created_at FROM usage_events AS e WHERE e.wseq > x.wseq ORDER BY e.wseq LIMIT 1
) AS first ON true
LEFT JOIN LATERAL (
    SELECT min(coalesce(h.asked_at, h.hour + interval '1 hour')) AS asked_at FROM export_hours AS h
    WHERE h.export = x.name AND h.used > h.told AND NOT h.parked
) AS due ON true
WHERE $1::text IS NULL OR x.name = $1
ORDER BY x.name
