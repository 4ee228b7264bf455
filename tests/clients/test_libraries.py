"""Each library on each behaviour of the gateway: `docs/clients.md` says what was seen here, and nothing else; and on a
provider that no one here wrote.

METERGATE_WRITE_DOCS=1 writes that page anew. What a library raises rests on its version and the gateway's status, code
and headers; where the gateway's wording is handed on, only that it is handed on is compared.
"""

import pytest

from tests.clients.libraries import LIBRARIES, NAMED
from tests.clients.trying import check_libraries, programs

pytestmark = pytest.mark.slow
# They have files of their own, with this among their tests.
ELSEWHERE = (NAMED["anthropic-python"], NAMED["google-genai"])
# They are built on the vendors' libraries, or speak like these, and take longest to import.
NIGHTLY = ("langchain", "llama-index", "litellm", "instructor", "ai-sdk")


@pytest.mark.parametrize(
    "libraries",
    [
        pytest.param(each, id=each[0].name, marks=[pytest.mark.nightly] if each[0].name in NIGHTLY else [])
        for each in programs()
        if each[0] not in ELSEWHERE
    ],
)
async def test_what_they_make_of_each(
    libraries,
    make_gateway,
    upstream,
    tmp_path,
    subtests,
):
    await check_libraries(libraries, make_gateway, upstream, tmp_path, subtests)


def test_no_library_is_left_out():
    assert sorted(each.name for libraries in programs() for each in libraries) == sorted(
        each.name for each in LIBRARIES
    )
    assert all((each,) in programs() for each in ELSEWHERE)
