-- Lock a coupon by its id or by the digest of its code, so that redemptions at the same time wait for each other.
SELECT * FROM coupons WHERE id = $1 OR code_sha256 = $2 FOR UPDATE
