-- Mark a personal organization that is transferred as a shared one.
UPDATE organizations SET personal = false WHERE id = $1
