SELECT session_id, user_id FROM refresh_tokens JOIN sessions ON sessions.id = session_id WHERE digest = $1
