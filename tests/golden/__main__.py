"""Write every golden file anew, to be read as a diff: `python -m tests.golden`."""

import os
import sys

import pytest

from tests.golden.comparing import WRITE

if __name__ == "__main__":
    os.environ[WRITE] = "1"
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/golden"]))
