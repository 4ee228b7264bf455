"""Every metric has its place in docs/metrics.md, and that page names no other."""

import re

from gateway.metrics.registry import COUNTERS, HISTOGRAMS
from tests.support.commands import CHECKOUT

GAUGE = re.compile(r'\.gauge\(\s*(f?)"([a-z_]+)(\{?)')


def test_every_metric_has_its_place_and_the_page_names_no_other():
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    listed = [name for heading in headings for name in re.findall(r"`metergate_(\w+)`", heading)]
    assert len(listed) == len(set(listed))
    gauges = [found for path in (CHECKOUT / "gateway").rglob("*.py") for found in GAUGE.findall(path.read_text())]
    assert len(gauges) > 20
    families = [name for formatted, name, more in gauges if formatted and more]  # such as collect_last_{name}
    exact = {name for formatted, name, more in gauges if not (formatted and more)}
    exact |= {f"{name}_total" for name in COUNTERS} | HISTOGRAMS.keys()
    assert exact <= set(listed)
    assert [name for name in listed if name not in exact and not name.startswith(tuple(families))] == []
    used = {name.removesuffix("_bucket") for name in re.findall(r"metergate_(\w+)", page)}
    assert used == set(listed)
