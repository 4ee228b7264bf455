"""`.env.example`, read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")
DOCUMENTATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")


def assignments() -> dict[str, str]:
    lines = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
