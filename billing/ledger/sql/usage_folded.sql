-- Until when account $1's usage is in the sums by one dimension; no row: reports are made without them.
SELECT until FROM usage_folds WHERE account_id = $1 AND caught_up
