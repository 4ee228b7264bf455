"""Fixtures for every test: see `tests.servers` and `tests.redis_cluster`."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers", "tests.redis_cluster"]

# A machine that is busy with other things makes no test wrong: no property is a matter of time.
settings.register_profile("metergate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metergate")
