-- Store the private part of the key $1 as $3, where it is $2 yet.
UPDATE signing_keys SET private_pem = $3 WHERE kid = $1 AND private_pem = $2
