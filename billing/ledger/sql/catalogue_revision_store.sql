-- Store a content under the newest number; forced, a content that was in force before gets another number.
INSERT INTO plan_revisions (revision, digest, version, said)
SELECT coalesce(max(revision), 0) + 1, $1, $2, $3 FROM plan_revisions
ON CONFLICT (digest) DO UPDATE SET revision = excluded.revision, first_seen_at = now()
RETURNING revision
