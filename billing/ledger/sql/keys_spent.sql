-- What keys $1 of accounts $2, in that order, were charged in the month of UTC that begins at $3.
SELECT asked.key_id, (coalesce((
    SELECT sum(sums.charged_nano) FROM usage_dimensions AS dimensions
    JOIN usage_sums AS sums ON sums.account_id = asked.account_id AND sums.granularity = 3 AND sums.tag = 0
        AND sums.bucket = $3 AND sums.dimensions = dimensions.id
    WHERE dimensions.account_id = asked.account_id AND dimensions.key_id = asked.key_id
), 0) + coalesce((
    SELECT sum(fresh.charged_nano) FROM usage_fresh AS fresh
    WHERE fresh.account_id = asked.account_id AND fresh.key_id = asked.key_id AND fresh.admitted_at >= $3
        AND fresh.admitted_at < $3 + interval '1 month'
), 0))::text AS charged_nano
FROM unnest($1::text[], $2::text[]) AS asked (key_id, account_id)
