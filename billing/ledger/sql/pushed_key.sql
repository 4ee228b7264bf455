UPDATE api_keys SET pushed_version = greatest(pushed_version, $2) WHERE id = $1
