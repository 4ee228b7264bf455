-- Take $3 from a lot of account $1, at most what is left of it. $2 is the lot's id or its transfer's; $4: whether it has expired.
UPDATE lots SET left_nano = left_nano - least(left_nano, $3::bigint),
    expired_nano = expired_nano + CASE WHEN $4::boolean THEN least(left_nano, $3::bigint) ELSE 0 END
WHERE account_id = $1 AND (id = $2 OR transfer_id = $2)
