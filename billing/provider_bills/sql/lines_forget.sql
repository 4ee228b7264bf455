DELETE FROM provider_bill_lines WHERE provider = $1 AND source = $2 AND day >= $3 AND day < $4
