-- Take $3 from the lot of account $1 whose id, or whose transfer's, is $2, no more than is left; $4 says whether it has expired.
UPDATE lots SET left_nano = left_nano - least(left_nano, $3::bigint),
    expired_nano = expired_nano + CASE WHEN $4::boolean THEN least(left_nano, $3::bigint) ELSE 0 END
WHERE account_id = $1 AND (id = $2 OR transfer_id = $2)
