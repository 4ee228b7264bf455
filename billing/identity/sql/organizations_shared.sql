-- A personal organization that is given away is its person's no more.
UPDATE organizations SET personal = false WHERE id = $1
