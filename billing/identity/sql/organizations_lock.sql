-- Lock an organization's row, as every change of its members and every new key of a member does first.
SELECT * FROM organizations WHERE id = $1 FOR NO KEY UPDATE
