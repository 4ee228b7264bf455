-- What account $1 has used: of the sums in each piece of time (granularity $2, from $3 on and before $4), and, with a place
-- below zero, of what is fresh in each of the spans between the bounds $5. By the dimensions $6 and $7, for one key, user and
-- feature ($8, $9, $10) or all, and by the values of the tag whose id is $11 and whose name is $12. With a tag the sums of
-- all requests come too, as rows of value 0: those without it are what these have more. At most $13 rows.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($2::smallint[], $3::timestamptz[], $4::timestamptz[])
        WITH ORDINALITY AS p (granularity, since, until, place)
), grouped AS MATERIALIZED (
    SELECT id, to_jsonb(d) ->> $6::text AS first, to_jsonb(d) ->> $7::text AS second
    FROM usage_dimensions AS d
    WHERE account_id = $1 AND ($8::text IS NULL OR key_id = $8) AND ($9::text IS NULL OR user_id = $9)
        AND ($10::text IS NULL OR feature = $10)
), rolled AS (
    SELECT p.place, g.first, g.second, s.value, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM pieces AS p CROSS JOIN LATERAL (
        SELECT * FROM usage_sums
        WHERE account_id = $1 AND granularity = p.granularity AND tag IN (0, $11::bigint)
            AND bucket >= p.since AND bucket < p.until
        OFFSET 0
    ) AS s JOIN grouped AS g ON g.id = s.dimensions
    GROUP BY 1, 2, 3, 4
), fresh AS (
    SELECT width_bucket(admitted_at, $5::timestamptz[]) AS span, key_id, coalesce(user_id, '') AS user_id, model, provider,
        endpoint, feature, tags ->> $12::text AS said, count(*) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM usage_fresh
    WHERE account_id = $1 AND ($8::text IS NULL OR key_id = $8) AND ($9::text IS NULL OR user_id = $9)
        AND ($10::text IS NULL OR feature = $10)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
)
SELECT place, first, second, rolled.value, v.value AS said, requests::bigint, input_tokens::bigint,
    cached_input_tokens::bigint, cache_write_tokens::bigint, output_tokens::bigint, reasoning_tokens::bigint, cost_nano,
    charged_nano
FROM rolled LEFT JOIN usage_tags AS v ON v.id = rolled.value
UNION ALL
SELECT -span, to_jsonb(f) ->> $6::text, to_jsonb(f) ->> $7::text, CASE WHEN said IS NULL THEN 0 ELSE -1 END, said, requests,
    input_tokens::bigint, cached_input_tokens::bigint, cache_write_tokens::bigint, output_tokens::bigint,
    reasoning_tokens::bigint, cost_nano, charged_nano
FROM fresh AS f
WHERE span BETWEEN 1 AND cardinality($5::timestamptz[]) - 1
LIMIT $13
