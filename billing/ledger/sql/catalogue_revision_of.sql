SELECT revision FROM plan_revisions WHERE digest = $1
