"""Configuration, read once at start. `settings` is the door: `load_settings` and everything that it returns.

problems.py     a Problem says where, which key and what was expected; ConfigError holds all of them
secret.py       Secret: a text that no log, error or repr shows
references.py   ${VAR} and ${VAR:-default}
source.py       YAML with line numbers: typed reading that notes problems and goes on
variables.py    every environment variable as data: name, default, help
example.py      the same as the text of `.env.example`
reader.py       one variable: its default, its parser, its problem
environment.py  the variables as one typed, frozen value
exporters.py    sources of collected traffic, out of a variable that holds JSON
models.py       metergate.yaml: providers and models
defaults.py     metergate.yaml: defaults, each with its bounds
prices.py       prices.yaml into a price table
plans.py        plans.yaml into plans
plan_files.py   which content of plans.yaml is in force, for all gateways
shipped/        the three files as they are shipped; `config/` of a checkout is a link to it
"""
