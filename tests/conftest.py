"""Fixtures for every test: see `tests.servers` and `tests.redis_cluster`."""

pytest_plugins = ["tests.servers", "tests.redis_cluster"]
