UPDATE organizations SET name = $2, slug = $3 WHERE id = $1
