-- Return when coupon $1 was redeemed by account $2, or by another account that an owner of this one owns now or owned
-- then. Who typed the code makes no difference.
WITH owners AS (
    SELECT m.user_id FROM organizations o JOIN memberships m ON m.org_id = o.id AND m.role = 'owner'
    WHERE o.account_id = $2),
theirs AS (
    SELECT $2 AS account_id
    UNION SELECT o.account_id FROM owners
        JOIN memberships m ON m.user_id = owners.user_id AND m.role = 'owner'
        JOIN organizations o ON o.id = m.org_id
    UNION SELECT had.account_id FROM owners
        JOIN coupon_owners had ON had.coupon_id = $1 AND had.user_id = owners.user_id)
SELECT r.account_id, r.redeemed_at FROM coupon_redemptions r JOIN theirs USING (account_id)
WHERE r.coupon_id = $1
ORDER BY r.account_id = $2 DESC LIMIT 1
