INSERT INTO provider_bill_lines (provider, source, day, model, key, line, requests, input_tokens, output_tokens, amount_nano)
SELECT $1, $2, * FROM unnest($3::date[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
