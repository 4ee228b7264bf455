"""`.env.example` and the documentation list every variable and every bound, with its default, as the code has it."""

import re
from typing import get_args

from gateway.config.defaults import KEYS, Defaults
from gateway.config.environment import SETTINGS_VARIABLES, Mode
from gateway.config.settings import (
    COMPOSE_GROUP,
    FILE_GROUP,
    GROUPS,
    SHIPPED_FOLDER,
    VARIABLES,
    environment_example,
    load_settings,
)
from tests.support.env_example import DOCUMENTATION, EXAMPLE, assignments


def test_the_example_has_every_variable_with_its_default_in_order():
    assert list(assignments().items()) == [(variable.name, variable.default) for variable in VARIABLES]


def test_the_example_is_what_init_writes():
    """It says what each is for, and an installation without a checkout gets the same text."""
    assert environment_example() == EXAMPLE


def test_the_example_as_it_is_means_the_defaults():
    assert load_settings(assignments()).defaults == Defaults()
    environ = {name: text for name, text in assignments().items() if name in SETTINGS_VARIABLES}
    names = ("listen_addr", "max_body_bytes", "cors_origins", "data_dir", "frontend_url", "metrics_addr")
    for mode in get_args(Mode):  # `up` listens on this machine alone, also in a shell that has read `.env`
        example, unsaid = load_settings(environ, mode=mode), load_settings({}, mode=mode)
        for name in names:
            assert getattr(example, name) == getattr(unsaid, name), mode


def test_no_secret_has_a_default():
    assert not [variable.name for variable in VARIABLES if variable.secret and variable.default]


def test_names_are_listed_once():
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_what_the_shipped_files_refer_to_is_listed():
    known = {variable.name for variable in VARIABLES} - {variable.name for variable in COMPOSE_GROUP.variables}
    referred = set()
    for path in SHIPPED_FOLDER.glob("*.yaml"):
        code = "\n".join(line.partition(" # ")[0] for line in path.read_text("utf-8").splitlines() if line[:1] != "#")
        referred |= set(re.findall(r"\$\{([A-Za-z_0-9]+)", code))
    assert referred <= known
    assert {variable.name for variable in FILE_GROUP.variables} <= referred


def test_the_documentation_has_every_variable():
    for group in GROUPS:
        assert f"### {group.title}\n" in DOCUMENTATION
        for variable in group.variables:
            default = f"`{variable.default}`" if variable.default else ""
            assert f"| `{variable.name}` | {default} | {variable.help} |\n" in DOCUMENTATION


def test_the_documentation_has_every_bound():
    for name, (_, key) in KEYS.items():
        row = f"| `{name}` | `{written(key.field.default)}` | {key.kind.allowed} | {key.kind.bound('description')} |\n"
        assert row in DOCUMENTATION


def written(value: object) -> str:
    """A value as YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
