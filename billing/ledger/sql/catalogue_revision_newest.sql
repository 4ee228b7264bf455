SELECT revision, version, said FROM plan_revisions ORDER BY revision DESC LIMIT 1
