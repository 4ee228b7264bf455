-- What account $1 has used in pieces of time ($2 to $6 as in usage_read.sql) by the values of the dimension or tag $7: those
-- of $8 alone where it is not null. With $9 what all requests come to, too, as rows without a value: these are added up of
-- the features, of which there are few. At most $10 rows.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($2::smallint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[])
        AS p (granularity, since, until, span, sign)
), counted AS MATERIALIZED (
    SELECT p.granularity, p.since, p.until, s.*
    FROM (SELECT DISTINCT granularity, since, until FROM pieces) AS p CROSS JOIN LATERAL (
        SELECT value, sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
            sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
            sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
            sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
        FROM usage_by_one
        WHERE account_id = $1 AND kind = $7 AND granularity = p.granularity AND bucket >= p.since AND bucket < p.until
            AND ($8::text[] IS NULL OR value = ANY ($8))
        GROUP BY 1
        UNION ALL
        SELECT NULL, sum(requests)::bigint, sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
            sum(cache_write_tokens)::bigint, sum(output_tokens)::bigint, sum(reasoning_tokens)::bigint, sum(cost_nano),
            sum(charged_nano)
        FROM usage_by_one
        WHERE $9 AND account_id = $1 AND kind = -6 AND granularity = p.granularity AND bucket >= p.since
            AND bucket < p.until
        HAVING count(*) > 0
    ) AS s
), summed AS (
    SELECT span, value, sum(sign * requests)::bigint AS requests, sum(sign * input_tokens)::bigint AS input_tokens,
        sum(sign * cached_input_tokens)::bigint AS cached_input_tokens,
        sum(sign * cache_write_tokens)::bigint AS cache_write_tokens, sum(sign * output_tokens)::bigint AS output_tokens,
        sum(sign * reasoning_tokens)::bigint AS reasoning_tokens, sum(sign * cost_nano)::text AS cost_nano,
        sum(sign * charged_nano)::text AS charged_nano
    FROM pieces JOIN counted USING (granularity, since, until)
    GROUP BY 1, 2
)
SELECT span, value, CASE WHEN $7 > 0 THEN (SELECT v.value FROM usage_tags AS v WHERE v.id = summed.value::bigint) END AS said,
    requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM summed
LIMIT $10
