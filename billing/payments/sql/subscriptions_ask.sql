UPDATE subscriptions SET asked = asked + 1 WHERE provider = $1 AND id = $2 RETURNING asked
