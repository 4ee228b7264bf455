from dataclasses import replace

import pytest
from msgspec import structs

from billing.api.oversight import image_identity
from billing.schemas.system import ImageShape
from tests.billing.api.support import serving

SHA = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "tag", "commit", "version"),
    [
        (f"registry.example.com/billing-service:sha-{SHA}", f"sha-{SHA}", SHA, SHA),
        (f"registry.example.com:5000/a/b:sha-{SHA}", f"sha-{SHA}", SHA, SHA),
        (f"metergate:sha-{SHA}@{DIGEST}", f"sha-{SHA}", SHA, SHA),
        ("registry.example.com/metergate:1.2.3", "1.2.3", "", "1.2.3"),
        ("metergate:sha-0123", "sha-0123", "", "sha-0123"),
    ],
)
def test_an_image_says_who_it_is(image, tag, commit, version):
    assert image_identity(image) == ImageShape(image=image, tag=tag, commit=commit, version=version)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "metergate",
        "registry.example.com:5000/metergate",
        "metergate:",
        ":tag",
        "a b:tag",
        "a:b:c",
        f"a@{DIGEST}",
        "a:-x",
    ],
)
def test_nothing_is_made_up(image):
    assert image_identity(image) == ImageShape()


async def test_ping_needs_no_key(api):
    answer = await api.call("GET", "/api/ping")
    assert answer.status == 200
    assert answer.json == structs.asdict(image_identity(f"registry.example.com/metergate:sha-{SHA}"))


async def test_ping_without_an_image(services, billing):
    async with serving(replace(services, image=""), billing) as api:
        answer = await api.call("GET", "/api/ping")
        assert (answer.status, answer.json) == (200, {"image": "", "tag": "", "commit": "", "version": ""})
