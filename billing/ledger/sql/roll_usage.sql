-- Move at most $1 fresh rows into the sums of all four granularities, and into those of all accounts, and answer how many: rows of minutes that
-- are over, so that most are raised once a minute, and others too while there are $2 fresh rows or more. One statement:
-- whoever reads sums and fresh rows in one snapshot finds each request once, whenever that is. The transaction has the turn
-- (an advisory lock) before this begins: what is new of dimensions and tags is written by one at a time. Of an account at
-- most $3 names of tags are kept, and $4 values of each. Rows are written in the order of their key. Of accounts that are in
-- usage_folds, what was admitted before the moment that is noted there is added to the sums by dimension and tag, too.
--
-- The planner takes what is moved for a few rows: the transaction has nested loops off, which would be slow between these.
-- What is in a table is looked up by its index, in a subquery of its own.
WITH moved AS (
    DELETE FROM usage_fresh
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM usage_fresh
        WHERE admitted_at < date_bin('1 minute', now(), timestamptz 'epoch')
            OR (SELECT count(*) FROM (SELECT FROM usage_fresh LIMIT $2) AS first) = $2
        LIMIT $1))
    RETURNING *
), whole AS (
    SELECT account_id, date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, key_id,
        coalesce(user_id, '') AS user_id, model, provider, endpoint, feature, tags, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM moved
), minutes AS MATERIALIZED (
    SELECT account_id, minute, key_id, user_id, model, provider, endpoint, feature, tags,
        count(*) AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
        sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM whole
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
), used AS MATERIALIZED (
    SELECT u.*, (SELECT d.id FROM usage_dimensions AS d WHERE d.account_id = u.account_id AND d.key_id = u.key_id
        AND d.user_id = u.user_id AND d.model = u.model AND d.provider = u.provider AND d.endpoint = u.endpoint
        AND d.feature = u.feature) AS id
    FROM (SELECT DISTINCT account_id, key_id, user_id, model, provider, endpoint, feature FROM minutes) AS u
), combined AS (
    INSERT INTO usage_dimensions (account_id, key_id, user_id, model, provider, endpoint, feature)
    SELECT account_id, key_id, user_id, model, provider, endpoint, feature FROM used WHERE id IS NULL
    RETURNING account_id, key_id, user_id, model, provider, endpoint, feature, id
), dimensions AS (
    SELECT * FROM used WHERE id IS NOT NULL UNION ALL SELECT * FROM combined
), counted AS MATERIALIZED (
    SELECT d.id AS dimensions, minutes.*
    FROM minutes JOIN dimensions AS d USING (account_id, key_id, user_id, model, provider, endpoint, feature)
), tagged AS MATERIALIZED (
    SELECT counted.*, t.key AS name, t.value AS said
    FROM counted CROSS JOIN LATERAL jsonb_each_text(
        CASE jsonb_typeof(tags) WHEN 'object' THEN tags ELSE '{}' END) AS t
), names_used AS MATERIALIZED (
    SELECT u.*, (SELECT n.id FROM usage_tags AS n
        WHERE n.account_id = u.account_id AND n.name = u.name AND n.value IS NULL) AS id
    FROM (SELECT DISTINCT account_id, name FROM tagged) AS u
), names_made AS (
    INSERT INTO usage_tags (account_id, name)
    SELECT account_id, name
    FROM (SELECT account_id, name, row_number() OVER (PARTITION BY account_id ORDER BY name) AS place
        FROM names_used WHERE id IS NULL) AS new
    WHERE place + (SELECT count(*) FROM usage_tags AS n WHERE n.account_id = new.account_id AND n.value IS NULL) <= $3
    RETURNING account_id, name, id
), names AS (
    SELECT * FROM names_used WHERE id IS NOT NULL UNION ALL SELECT * FROM names_made
), room AS MATERIALIZED (
    SELECT account_id, name, id AS tag, $4 - (SELECT count(*) FROM usage_tags AS v
        WHERE v.account_id = names.account_id AND v.name = names.name AND v.value IS NOT NULL) AS free
    FROM names
), values_used AS MATERIALIZED (
    SELECT u.*, (SELECT v.id FROM usage_tags AS v
        WHERE v.account_id = u.account_id AND v.name = u.name AND v.value = u.said) AS id, room.free
    FROM (SELECT DISTINCT account_id, name, said FROM tagged) AS u JOIN room USING (account_id, name)
), values_made AS (
    INSERT INTO usage_tags (account_id, name, value)
    SELECT account_id, name, said
    FROM (SELECT account_id, name, said, free, row_number() OVER (PARTITION BY account_id, name ORDER BY said) AS place
        FROM values_used WHERE id IS NULL) AS new
    WHERE place <= free
    RETURNING account_id, name, value, id
), all_values AS (
    SELECT account_id, name, said, id FROM values_used WHERE id IS NOT NULL UNION ALL SELECT * FROM values_made
), parts AS (
    SELECT account_id, 0 AS tag, minute, dimensions, 0 AS value, requests, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM counted
    UNION ALL
    SELECT t.account_id, room.tag, minute, dimensions, coalesce(v.id, room.tag), requests, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM tagged AS t JOIN room USING (account_id, name) LEFT JOIN all_values AS v USING (account_id, name, said)
), summed AS (
    INSERT INTO usage_sums AS s (account_id, granularity, tag, bucket, dimensions, value, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT account_id, g.code, tag, date_trunc(g.unit, minute, 'UTC') AS bucket, dimensions, value, sum(requests),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM parts CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (account_id, granularity, tag, bucket, dimensions, value) DO UPDATE SET
        requests = s.requests + excluded.requests,
        input_tokens = s.input_tokens + excluded.input_tokens,
        cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
), late AS MATERIALIZED (
    SELECT account_id, hour, tag, value,
        CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 WHEN endpoint IS NOT NULL THEN 5 WHEN feature IS NOT NULL THEN 6 ELSE 0
        END AS dimension,
        coalesce(key_id, user_id, model, provider, endpoint, feature, '') AS dimension_value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM (SELECT parts.*, date_trunc('hour', minute, 'UTC') AS hour FROM parts JOIN usage_folds AS f USING (account_id)
            WHERE minute < f.until) AS p
        JOIN (SELECT id AS dimensions, key_id, user_id, model, provider, endpoint, feature FROM dimensions) AS d
            USING (dimensions)
    GROUP BY account_id, hour, tag, value, GROUPING SETS ((), key_id, user_id, model, provider, endpoint, feature)
), by_names AS (
    INSERT INTO usage_by_names AS s (account_id, tag, dimension, granularity, bucket, dimension_value, value, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT account_id, tag, dimension, g.code, date_trunc(g.unit, hour, 'UTC'), dimension_value, value, sum(requests),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM late CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, tag, dimension, granularity, bucket, dimension_value, value) DO UPDATE SET
        requests = s.requests + excluded.requests,
        input_tokens = s.input_tokens + excluded.input_tokens,
        cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
), of_all AS MATERIALIZED (
    SELECT c.account_id, c.model, c.provider, g.code AS granularity, date_trunc(g.unit, c.hour, 'UTC') AS bucket, c.requests,
        c.cost_nano, c.charged_nano
    FROM (
        SELECT account_id, model, provider, date_trunc('hour', minute, 'UTC') AS hour, sum(requests) AS requests,
            sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
        FROM counted GROUP BY 1, 2, 3, 4
    ) AS c CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
), by_account AS (
    INSERT INTO usage_by_account AS s (granularity, bucket, account_id, requests, cost_nano, charged_nano)
    SELECT granularity, bucket, account_id, sum(requests), sum(cost_nano), sum(charged_nano)
    FROM of_all WHERE granularity >= 2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (granularity, bucket, account_id) DO UPDATE SET
        requests = s.requests + excluded.requests,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
), by_model AS (
    INSERT INTO usage_by_model AS s (granularity, bucket, model, provider, requests, cost_nano, charged_nano)
    SELECT granularity, bucket, model, provider, sum(requests), sum(cost_nano), sum(charged_nano)
    FROM of_all GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (granularity, bucket, model, provider) DO UPDATE SET
        requests = s.requests + excluded.requests,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
)
SELECT count(*) FROM moved
