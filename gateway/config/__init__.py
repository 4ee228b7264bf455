"""Configuration, read once at start. Begin with `settings`: `load_settings` and what it returns,
and every variable in its group.

secret.py       Secret: a text that no log, error or repr shows
source.py       YAML with line numbers: typed reading that notes problems and goes on; a struct's fields as the keys of
                a section, with their bounds and words for messages; a Problem says where, which key and what was
                expected, ConfigError holds all of them; ${VAR}; the three files: names, folder
environment.py  the variables as one typed, frozen value, whose fields declare each: name, default, how it is read, help
providers.py    metergate.yaml: providers and models, what a kind fills in; base URLs, keys, cool-down of targets
defaults.py     metergate.yaml: defaults, a section for each part
exports.py, body_logs.py  metergate.yaml: exports, body_logs; settings.py  metergate.yaml: identity, betas
plans.py        plans.yaml into plans, metergate.yaml: payments; plan_follower.py  which content of plans.yaml is in
                force for all gateways
prices.py       prices.yaml into a price table, and follows the file while a gateway runs
shipped/        the three files as they are shipped; `config/` of a checkout is a link to it
"""
