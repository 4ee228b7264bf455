"""Each release says whether it rolls, and as the migrations have it."""

import re
import subprocess

from billing.database.migrate import migrations
from tests.support.commands import CHECKOUT
from tests.support.releases import TAGS

TEXT = (CHECKOUT / "CHANGELOG.md").read_text()
RELEASES = dict(re.findall(r"^## \[(.+?)\][^\n]*\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
MIGRATIONS = "billing/database/migrations"


def test_each_says_whether_it_rolls():
    assert "Unreleased" in RELEASES
    for name, said in RELEASES.items():
        assert re.match(r"\nRolls: (yes|no)[.,]", said), f"{name} has no line `Rolls: yes.` or `Rolls: no, WHY.`"


def test_what_comes_does_not_roll_where_a_migration_of_it_does_not():
    old = released()
    if any(not migration.rolls for migration in migrations() if migration.full_name not in old):
        assert "\nRolls: no" in RELEASES["Unreleased"]


def released() -> set[str]:
    """Migrations of the last tag; none before the first one."""
    described = ["git", "describe", "--tags", "--abbrev=0", "--match", TAGS]
    tag = subprocess.run(described, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()
    if not tag:
        return set()
    listed = ["git", "ls-tree", "--name-only", tag, f"{MIGRATIONS}/"]
    files = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    return {file.rpartition("/")[2].removesuffix(".sql") for file in files}
