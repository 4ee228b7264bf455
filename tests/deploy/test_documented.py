"""The commands of docs/deploy.md: of a shell, on files that are there, with variables that the gateway reads."""

import re
import subprocess
from typing import Final

from gateway.config.environment import SETTINGS_VARIABLES
from gateway.config.settings import FILE_GROUP
from tests.support.commands import CHECKOUT

PAGE: Final = (CHECKOUT / "docs" / "deploy.md").read_text()
BLOCKS: Final = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPT: Final = "\n".join(BLOCKS)


def test_they_are_a_shells() -> None:
    assert len(BLOCKS) > 8
    parsed = subprocess.run(["bash", "-n"], input=SCRIPT, capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_files_that_they_take_are_there() -> None:
    taken = set(re.findall(r"(?<![\w/.])(?:deploy|requirements|config)(?:/[\w.*-]+)*(?= |$)", SCRIPT, re.MULTILINE))
    assert {"config", "deploy/caddy/Caddyfile", "deploy/systemd/metergate.service", "deploy/prometheus/*.yml"} <= taken
    for path in taken:
        assert list(CHECKOUT.glob(path)), path


def test_variables_of_the_files_that_they_write_are_settings() -> None:
    (secrets,) = re.findall(r"^cat > /etc/metergate/secrets.env <<EOF\n(.*?)^EOF$", PAGE, re.MULTILINE | re.DOTALL)
    written = {line.partition("=")[0] for line in secrets.splitlines()}
    known = SETTINGS_VARIABLES.keys() | {variable.name for variable in FILE_GROUP.variables}
    assert {"DATABASE_URL", "REDIS_URL", "ADMIN_API_KEY"} <= written <= known
