-- How far the sources $1 are read.
SELECT s.source, s.watermark, s.collected_at, s.error FROM collect_sources AS s WHERE s.source = ANY ($1::text[])
