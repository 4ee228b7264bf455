-- A run is over; runs but for the last $15 are forgotten.
WITH added AS (
    INSERT INTO collect_runs (job, status, started_at, finished_at, sources, failed_sources, processed_samples,
        written_minutes, replayed_minutes, conflicts, set_aside, debits, revision, error)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id
)
DELETE FROM collect_runs WHERE id <= (SELECT id FROM added) - $15
