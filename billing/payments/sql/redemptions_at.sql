SELECT redeemed_at FROM coupon_redemptions WHERE coupon_id = $1 AND account_id = $2
