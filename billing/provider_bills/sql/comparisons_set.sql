INSERT INTO provider_comparisons (provider, since, until, ours_nano, theirs_nano, difference_nano)
VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6::text::numeric)
ON CONFLICT (provider) DO UPDATE SET since = excluded.since, until = excluded.until, ours_nano = excluded.ours_nano,
    theirs_nano = excluded.theirs_nano, difference_nano = excluded.difference_nano, at = now()
