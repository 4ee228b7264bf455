-- Take items $2 of export $1 off the list.
DELETE FROM export_parked WHERE export = $1 AND item = ANY ($2::text[])
