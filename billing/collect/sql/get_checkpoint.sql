-- How far source $1 was read; a new one gets its row.
WITH known AS (
    SELECT version, watermark, since, until, cursor, newest FROM collect_sources WHERE source = $1
), made AS (
    INSERT INTO collect_sources (source) SELECT $1 WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (source) DO UPDATE SET source = excluded.source
    RETURNING version, watermark, since, until, cursor, newest
)
SELECT * FROM known UNION ALL SELECT * FROM made
