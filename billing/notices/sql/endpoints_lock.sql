-- Endpoints of one owner are made one after another, so that their number keeps its bound.
SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoints:' || coalesce($1, ''), 0))
