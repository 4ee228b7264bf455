-- Take back a try of subject $1 that has succeeded; others stay counted. $2 is from when on one has to wait.
UPDATE sign_in_tries SET failures = greatest(failures - 1, 0),
    blocked_until = CASE WHEN failures - 1 < $2 THEN '-infinity' ELSE blocked_until END
WHERE subject = $1
