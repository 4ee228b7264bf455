-- Return accounts whose days of grace are over and whose plan has not been changed for it yet.
SELECT s.account_id FROM subscriptions s JOIN account_plans p ON p.account_id = s.account_id AND p.standing = 'past_due'
WHERE s.past_due_since IS NOT NULL GROUP BY s.account_id HAVING max(s.past_due_since) <= $1 LIMIT $2
