-- What account $1 has used in pieces of time ($2 to $6 as in usage_read.sql) by the values of each of the dimensions $7 (0: all
-- together, without a first value): those of $8 alone where it is not null. And by the values of the tag $9 with each of
-- them, in rows that are else as those of usage_read.sql. At most $10 rows.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($2::smallint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[])
        AS p (granularity, since, until, span, sign)
), counted AS MATERIALIZED (
    SELECT p.granularity, p.since, p.until, s.*
    FROM (SELECT DISTINCT granularity, since, until FROM pieces) AS p CROSS JOIN unnest($7::smallint[]) AS asked (dimension)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN dimension > 0 THEN dimension_value END AS first, value, sum(requests)::bigint AS requests,
                sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
                sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(output_tokens)::bigint AS output_tokens,
                sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_nano) AS cost_nano,
                sum(charged_nano) AS charged_nano
            FROM usage_by_names AS u
            WHERE account_id = $1 AND tag IN (0, $9::bigint) AND u.dimension = asked.dimension
                AND granularity = p.granularity AND bucket >= p.since AND bucket < p.until AND ($8::text[] IS NULL
                    OR dimension_value = ANY (CASE WHEN asked.dimension > 0 THEN $8 ELSE ARRAY[''] END))
            GROUP BY 1, 2
        ) AS s
), summed AS (
    SELECT span, first, value, sum(sign * requests)::bigint AS requests, sum(sign * input_tokens)::bigint AS input_tokens,
        sum(sign * cached_input_tokens)::bigint AS cached_input_tokens,
        sum(sign * cache_write_tokens)::bigint AS cache_write_tokens, sum(sign * output_tokens)::bigint AS output_tokens,
        sum(sign * reasoning_tokens)::bigint AS reasoning_tokens, sum(sign * cost_nano)::text AS cost_nano,
        sum(sign * charged_nano)::text AS charged_nano
    FROM pieces JOIN counted USING (granularity, since, until)
    GROUP BY 1, 2, 3
)
SELECT span, first, NULL AS second, value,
    CASE WHEN value <> 0 THEN (SELECT v.value FROM usage_tags AS v WHERE v.id = summed.value) END AS said, requests,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM summed
LIMIT $10
