"""Fixtures for every test: see `tests.servers`."""

pytest_plugins = ["tests.servers"]
