"""What users see is as the golden files have it."""

import json
import re
import subprocess

from gateway.embedded.process import postgres_bin
from tests.golden.comparing import compare
from tests.support.command_tree import COMMANDS
from tests.support.commands import Shell
from tests.support.edge_clients import post
from tests.support.edge_servers import edge
from tests.support.refusals import every_case

WIDTH = 100
REQUEST_ID = "01JXSZ4G00000000000000TEST"
BUILT = re.compile(r"^-- Dumped .*\n", re.MULTILINE)
MONTH = re.compile(r"(?:usage_events_|TO \(')(\d{4})[-_](\d\d)")
DATE = re.compile(rb"\r\nDate: [^\r]+")


async def test_the_openapi_document(gateway):
    async with gateway.session.get(f"{gateway.url}/api/openapi.json") as answer:
        document = await answer.json()
    document["info"]["version"] = "0"
    compare("openapi.json", json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def test_the_help_of_every_command(tmp_path):
    asked = [[*command.split(), "--help"] for command in ("", *COMMANDS)]
    env = {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}
    printed = Shell(tmp_path).run_each(asked, env)
    assert all(result.code == 0 for result in printed)
    parts = (f"$ metergate {' '.join(each)}\n{result.stdout}" for each, result in zip(asked, printed, strict=True))
    compare("help.txt", "\n".join(parts))


def test_the_schema(database_url):
    """Without its owner, which servers name differently. Months have numbers in place of their dates."""
    program = postgres_bin(None) / "pg_dump"
    command = (program, "--schema-only", "--no-owner", "--restrict-key=golden", database_url)
    dumped = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    dumped = BUILT.sub("", dumped)
    for number, month in enumerate(sorted({*MONTH.findall(dumped)})):
        dumped = dumped.replace("_".join(month), f"month_{number}").replace("-".join(month), f"month-{number}")
    compare("schema.sql", dumped)


async def test_every_refusal_on_the_wire():
    refusals = list(every_case())

    async def refuse(exchange):
        case = refusals[int(exchange.headers["x-case"])]
        exchange.envelope = case.envelope
        case.refusal.answer(exchange, REQUEST_ID)

    answers = {}
    async with edge(refuse) as served:
        client = await served.connect()
        for at, case in enumerate(refusals):
            client.send(post(b"", f"x-case: {at}"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            body = await client.reader.readexactly(int(length[1]))
            head = head.replace(b" 413 Content Too Large", b" 413 Request Entity Too Large")  # since Python 3.13
            answers.setdefault(DATE.sub(b"", head).replace(b"\r\n", b"\n") + body, case.name)
    compare("refusals.txt", "\n\n".join(f"# {name}\n{answer.decode()}" for answer, name in answers.items()) + "\n")
