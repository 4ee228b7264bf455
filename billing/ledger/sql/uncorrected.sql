-- Accounts with corrections that Redis may not have been told of.
SELECT id, xseq FROM accounts WHERE xseq > pushed_xseq LIMIT $1
