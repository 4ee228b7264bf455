-- What is due of the accounts $1, no longer due from here on.
DELETE FROM collected_due WHERE account_id = ANY ($1::text[]) RETURNING account_id, region, hour, at, bytes
