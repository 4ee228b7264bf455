WITH counted AS (UPDATE coupons SET redemptions = redemptions + 1 WHERE id = $1),
redeemed AS (
    INSERT INTO coupon_redemptions (coupon_id, account_id, transfer_id, redeemed_by) VALUES ($1, $2, $3, $4)
    RETURNING coupon_id, account_id)
INSERT INTO coupon_owners (coupon_id, user_id, account_id)
SELECT redeemed.coupon_id, m.user_id, redeemed.account_id FROM redeemed
JOIN organizations o ON o.account_id = redeemed.account_id
JOIN memberships m ON m.org_id = o.id AND m.role = 'owner'
