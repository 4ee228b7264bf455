-- Whether account $1 may be charged now and is below the threshold of its wish, whose row the caller has locked.
SELECT a.status IN ('active', 'past_due') AND a.balance_nano + a.credit_limit_nano < r.threshold_nano
FROM auto_recharges r JOIN accounts a ON a.id = r.account_id WHERE r.account_id = $1
