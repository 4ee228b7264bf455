WITH counted AS (UPDATE coupons SET redemptions = redemptions + 1 WHERE id = $1)
INSERT INTO coupon_redemptions (coupon_id, account_id, transfer_id, redeemed_by) VALUES ($1, $2, $3, $4)
