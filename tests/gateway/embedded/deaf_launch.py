"""`gateway.embedded.launch` as it is where the kernel tells nobody of a parent's end."""

import runpy
import sys
from pathlib import Path

sys.platform = "darwin"
runpy.run_path(str(Path(__file__).resolve().parents[3] / "gateway" / "embedded" / "launch.py"), run_name="__main__")
