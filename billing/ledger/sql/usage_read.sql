-- What account $1 has used in each span of time, by group: of the sums in each piece of time (granularity $2, from $3 on and
-- before $4), which counts for the span $5 with the sign $6; and, with a place below zero, of what is fresh in each of the
-- spans between the bounds $7. By the dimensions in the places $8 and $9, for one key, user and feature ($10, $11, $12) or
-- all, and by the values of the tag whose id is $13 and whose name is $14. With a tag the sums of all requests come too, as
-- rows of value 0: those without it are what these have more. At most $15 rows. With $16 only these values of the first
-- dimension are told apart, and all others are called $17. Each piece is one short reading of the
-- index, added up by itself, once where two spans meet in it; groups have a number, because many rows are added by it.
WITH pieces AS MATERIALIZED (
    SELECT *, count(*) OVER (PARTITION BY span) = 1 AS whole
    FROM unnest($2::smallint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[])
        AS p (granularity, since, until, span, sign)
), combined AS MATERIALIZED (
    SELECT id, first, second, dense_rank() OVER (ORDER BY first, second) AS number
    FROM (
        SELECT id, CASE WHEN $16::text[] IS NULL OR coalesce(named = ANY ($16), true) THEN named ELSE $17 END AS first,
            (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$9::integer] AS second
        FROM usage_dimensions CROSS JOIN LATERAL (
            SELECT (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$8::integer] AS named
        ) AS f
        WHERE account_id = $1 AND ($10::text IS NULL OR key_id = $10) AND ($11::text IS NULL OR user_id = $11)
            AND ($12::text IS NULL OR feature = $12)
    ) AS d
), counted AS MATERIALIZED (
    SELECT p.granularity, p.since, p.until, s.*
    FROM (SELECT DISTINCT granularity, since, until FROM pieces) AS p CROSS JOIN LATERAL (
        SELECT c.number, u.value, sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
            sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
            sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
            sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
        FROM usage_sums AS u JOIN combined AS c ON c.id = u.dimensions
        WHERE account_id = $1 AND granularity = p.granularity AND tag IN (0, $13::bigint)
            AND bucket >= p.since AND bucket < p.until
        GROUP BY 1, 2
    ) AS s
), rolled AS (
    SELECT p.span, s.number, s.value, sum(sign * requests)::bigint AS requests,
        sum(sign * input_tokens)::bigint AS input_tokens, sum(sign * cached_input_tokens)::bigint AS cached_input_tokens,
        sum(sign * cache_write_tokens)::bigint AS cache_write_tokens, sum(sign * output_tokens)::bigint AS output_tokens,
        sum(sign * reasoning_tokens)::bigint AS reasoning_tokens, sum(sign * cost_nano)::text AS cost_nano,
        sum(sign * charged_nano)::text AS charged_nano
    FROM pieces AS p JOIN counted AS s USING (granularity, since, until)
    WHERE NOT whole
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT span, number, value, sign * requests, sign * input_tokens, sign * cached_input_tokens, sign * cache_write_tokens,
        sign * output_tokens, sign * reasoning_tokens, (sign * cost_nano)::text, (sign * charged_nano)::text
    FROM pieces JOIN counted USING (granularity, since, until)
    WHERE whole
), fresh AS (
    SELECT width_bucket(admitted_at, $7::timestamptz[]) AS span, key_id, coalesce(user_id, '') AS user_id, model, provider,
        endpoint, feature, tags ->> $14::text AS said, count(*) AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
        sum(cost_nano)::text AS cost_nano, sum(charged_nano)::text AS charged_nano
    FROM usage_fresh
    WHERE account_id = $1 AND ($10::text IS NULL OR key_id = $10) AND ($11::text IS NULL OR coalesce(user_id, '') = $11)
        AND ($12::text IS NULL OR feature = $12)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
)
SELECT span, first, second, rolled.value,
    CASE WHEN rolled.value <> 0 THEN (SELECT v.value FROM usage_tags AS v WHERE v.id = rolled.value) END AS said, requests,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM rolled JOIN (SELECT DISTINCT number, first, second FROM combined) AS named USING (number)
UNION ALL
SELECT -span, CASE WHEN $16::text[] IS NULL OR coalesce(named = ANY ($16), true) THEN named ELSE $17 END,
    (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$9::integer],
    CASE WHEN said IS NULL THEN 0 ELSE -1 END, said, requests, input_tokens, cached_input_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM fresh CROSS JOIN LATERAL (
    SELECT (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$8::integer] AS named
) AS f
WHERE span BETWEEN 1 AND cardinality($7::timestamptz[]) - 1
LIMIT $15
