"""Programs for who works on Metergate; nothing that is installed imports them.

make_prices      config/prices.yaml, from the package genai-prices and model_facts.json
build_release    what a release has, the same bytes from the same commit
make_dashboards  deploy/grafana, from its own tables
"""
