SELECT id FROM service_holds WHERE id = ANY ($1::text[]) AND state = 'held'
