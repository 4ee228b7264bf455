DELETE FROM plans WHERE NOT id = ANY ($1::text[])
