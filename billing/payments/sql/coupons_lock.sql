-- By its id, or by the digest of its code: whoever redeems it at the same time waits.
SELECT * FROM coupons WHERE id = $1 OR code_sha256 = $2 FOR UPDATE
