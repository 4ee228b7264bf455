SELECT true FROM operator_links WHERE digest = $1 AND used_at IS NULL AND expires_at > now()
