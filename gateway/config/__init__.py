"""Configuration, read once at start. Begin with `settings`: `load_settings` and what it returns,
and every variable in its group.

problems.py     a Problem says where, which key and what was expected; ConfigError holds all of them; ${VAR}
secret.py       Secret: a text that no log, error or repr shows
files.py        the three files: names, folder, one read into YAML nodes
sections.py     a struct's fields as the keys of a section, with their bounds and words for messages
source.py       YAML with line numbers: typed reading that notes problems and goes on
environment.py  the variables as one typed, frozen value, whose fields declare each: name, default, how it is read, help
                server_variables.py  those of the gateway itself: listening, stores, bounds, logs, keys, tokens
reader.py       one variable: how it is declared, its parser, its problem
derived.py      settings that are read out of several variables, or that depend on the command
models.py       metergate.yaml: models
providers.py    metergate.yaml: providers, and what a kind fills in; targets.py  base URLs, keys and cool-down
defaults.py     metergate.yaml: defaults, a section for each part
identity.py     metergate.yaml: identity; exports.py  metergate.yaml: exports; betas.py  metergate.yaml: betas
plans.py        plans.yaml into plans, metergate.yaml: payments; plan_follower.py  which content of plans.yaml is in
                force for all gateways
prices.py       prices.yaml into a price table; price_file.py follows the file while a gateway runs
shipped/        the three files as they are shipped; `config/` of a checkout is a link to it
"""
