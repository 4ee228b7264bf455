UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2) WHERE id = $1
