-- Return when coupon $1 was redeemed by account $2, or by another account that has an owner in common with it.
SELECT r.account_id, r.redeemed_at FROM coupon_redemptions r
WHERE r.coupon_id = $1 AND (r.account_id = $2 OR r.account_id IN (
    SELECT theirs.account_id FROM organizations own
    JOIN memberships owner ON owner.org_id = own.id AND owner.role = 'owner'
    JOIN memberships also ON also.user_id = owner.user_id AND also.role = 'owner'
    JOIN organizations theirs ON theirs.id = also.org_id
    WHERE own.account_id = $2))
ORDER BY r.account_id = $2 DESC LIMIT 1
