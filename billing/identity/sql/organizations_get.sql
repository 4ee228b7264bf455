SELECT * FROM organizations WHERE id = $1
