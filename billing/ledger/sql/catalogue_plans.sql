SELECT id, digest FROM plans
