-- Take $3 from lot $2 of account $1, no more than is left; $4 says whether it has expired.
UPDATE lots SET left_nano = left_nano - least(left_nano, $3::bigint),
    expired_nano = expired_nano + CASE WHEN $4::boolean THEN least(left_nano, $3::bigint) ELSE 0 END
WHERE id = $2 AND account_id = $1
