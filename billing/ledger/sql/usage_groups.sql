-- How many groups the usage of account $1 has at most in one span of time, but for what is fresh: by the dimensions in the places
-- $2 and $3 (null: none), and by the tag $4 (null: none).
SELECT count(DISTINCT ((ARRAY[key_id, user_id, model, provider, endpoint, feature])[$2::integer],
        (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$3::integer]))
    * (SELECT count(*) + 1 FROM usage_tags WHERE account_id = $1 AND name = $4::text)
FROM usage_dimensions WHERE account_id = $1
