-- Of $3 accounts with auto-recharge from $2 on, those to charge by $1, $4 at most; and where the next look begins.
WITH page AS (
    SELECT r.account_id, r.next_attempt_at <= $1 AND (r.state = 'charging' OR (
        a.status IN ('active', 'past_due') AND a.balance_nano + a.credit_limit_nano < r.threshold_nano)) AS is_due
    FROM auto_recharges r JOIN accounts a ON a.id = r.account_id
    WHERE r.state IN ('ready', 'waiting', 'capped', 'charging') AND r.account_id > $2
    ORDER BY r.account_id LIMIT $3
), due AS (
    SELECT account_id FROM page WHERE is_due ORDER BY account_id LIMIT $4
)
SELECT ARRAY(SELECT account_id FROM due ORDER BY account_id) AS due, CASE
    WHEN (SELECT count(*) FROM due) = $4 THEN (SELECT max(account_id) FROM due)
    WHEN (SELECT count(*) FROM page) = $3 THEN (SELECT max(account_id) FROM page)
    ELSE '' END AS place
