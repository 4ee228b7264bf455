-- What is left of account $1's lots that came with its plan.
SELECT coalesce(sum(left_now), 0)::bigint FROM lots_now WHERE account_id = $1 AND kind = 'subscription'
