-- Whoever changes who belongs to an organization, or makes a key for a member, has its row first.
SELECT * FROM organizations WHERE id = $1 FOR NO KEY UPDATE
