SELECT digest, answer FROM local_keys WHERE key = $1
