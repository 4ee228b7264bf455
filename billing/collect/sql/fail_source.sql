-- What is wrong with source $1; a window that can't be gone on with ($3) begins anew.
UPDATE collect_sources SET error = $2, version = version + $3::boolean::integer,
    cursor = CASE WHEN NOT $3::boolean THEN cursor END, since = CASE WHEN NOT $3::boolean THEN since END,
    until = CASE WHEN NOT $3::boolean THEN until END
WHERE source = $1
