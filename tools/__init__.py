"""Programs for who works on Metergate; nothing that is installed imports them.

make_prices      config/prices.yaml, from the package genai-prices and model_facts.json
make_dashboards  deploy/grafana, from its own tables
"""
