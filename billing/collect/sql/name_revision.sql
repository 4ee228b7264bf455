-- The number of revision $1; a new one gets one, and no row is locked for one that has it.
WITH known AS (SELECT id FROM collect_revisions WHERE name = $1), made AS (
    INSERT INTO collect_revisions (name) SELECT $1 WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id
)
SELECT id FROM known UNION ALL SELECT id FROM made
