SELECT greatest(1, ceil(extract(epoch FROM blocked_until - now())))::integer FROM sign_in_tries WHERE subject = $1
