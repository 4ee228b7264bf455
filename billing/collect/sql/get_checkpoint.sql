INSERT INTO collect_sources (source) VALUES ($1) ON CONFLICT (source) DO UPDATE SET source = excluded.source
RETURNING version, watermark, since, until, cursor, newest
