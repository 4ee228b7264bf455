-- Take off the list what was parked of an hour and is told now.
DELETE FROM export_parked WHERE export = $1 AND again AND starts_with(item, $2)
