"""The shipped configuration, read once: half of what it costs to make a gateway."""

from functools import cache

from gateway.config.settings import Settings, load_settings


@cache
def shipped_settings(admin_key: str) -> Settings:
    """The settings of a command that knows this admin key and no other variable. They are frozen: change a copy."""
    return load_settings({"ADMIN_API_KEY": admin_key}, mode="command")
