-- Return accounts with corrections that Redis may not have.
SELECT id, xseq FROM accounts WHERE xseq > pushed_xseq LIMIT $1
