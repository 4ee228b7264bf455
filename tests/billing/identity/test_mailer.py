"""The mailer against a real mail server: sent once, tried again, parked, over TLS, and nothing secret left behind."""

import asyncio
import datetime
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from billing.identity.codes import Codes
from billing.identity.mailer import Delivery, Mailer, MailFailed, Smtp, to_console
from billing.mail import enqueue
from billing.pending import Pending
from billing.settings import CodeSettings, MailSettings
from billing.work import TAKE_LEASE
from tests.billing.support import Billing
from tests.support.mail import Mailbox, mail_server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

FROM = "billing@example.com"
ADA = "ada@example.com"


def mailer_of(billing: Billing, delivery: Delivery | None, attempts: int = 3) -> Mailer:
    codes = Codes(billing.database, billing.new_id, CodeSettings())
    return Mailer(billing.database, codes, delivery, MailSettings(mail_attempts=attempts), "this")


async def written(billing: Billing, *recipients: str, body: str = "Your code is 123456.\n") -> None:
    async with billing.database.transaction() as connection:
        for recipient in recipients:
            await enqueue(connection, billing.new_id, recipient, "Metergate: hello", body)


async def rows(billing: Billing) -> list[dict[str, Any]]:
    return [dict(row) for row in await billing.database.rows("SELECT * FROM mail_outbox ORDER BY id")]


async def due(billing: Billing) -> None:
    await billing.database.execute("UPDATE mail_outbox SET next_attempt_at = now()")


async def test_a_mail_is_sent_once_and_its_text_is_removed(billing):
    await written(billing, ADA, "eve@example.com", body="Grüße, Ihr Code ist 123456.\n")
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        mailer = mailer_of(billing, Smtp("127.0.0.1", port, FROM))
        assert await mailer.round() == 2
        assert await mailer.round() == 0
    assert mailbox.recipients == [ADA, "eve@example.com"]
    message = mailbox.message(0)
    assert message.get_content().replace("\r\n", "\n") == "Grüße, Ihr Code ist 123456.\n"
    assert (message["From"], message["To"], message["Subject"]) == (f"Metergate <{FROM}>", ADA, "Metergate: hello")
    assert message["Auto-Submitted"] == "auto-generated"
    stored = await rows(billing)
    assert message["Message-ID"] == f"<{stored[0]['id']}@example.com>"
    assert all(row["sent_at"] is not None and row["body"] == "" for row in stored)
    assert "123456" not in str(stored)


async def test_gateways_that_send_at_the_same_time_send_each_mail_once(billing):
    names = [f"{number}@example.com" for number in range(12)]
    await written(billing, *names)
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        mailers = [mailer_of(billing, Smtp("127.0.0.1", port, FROM)) for _ in range(3)]
        assert sum(await asyncio.gather(*(mailer.round() for mailer in mailers))) == 12
    assert sorted(mailbox.recipients) == sorted(names)


async def test_a_recipient_that_is_refused_keeps_no_other_back(billing):
    await written(billing, "poison@example.com", "grey@example.com", ADA)
    mailbox = Mailbox(poison="550 no such user", grey="451 come again")
    with mail_server(mailbox) as port:
        mailer = mailer_of(billing, Smtp("127.0.0.1", port, FROM))
        assert await mailer.round() == 3
        assert mailbox.recipients == [ADA]
        poison, grey, _ = await rows(billing)
        assert poison["failed_at"] is not None
        assert "550" in poison["error"]
        assert poison["body"] == ""
        assert (grey["failed_at"], grey["attempts"]) == (None, 1)
        assert "451" in grey["error"]
        assert 50 < (grey["next_attempt_at"] - grey["created_at"]).total_seconds() < 70
        for _ in range(2):
            await due(billing)
            await mailer.round()
    grey = (await rows(billing))[1]
    assert (grey["attempts"], grey["body"]) == (3, "")
    assert grey["failed_at"] is not None
    await mailer.standing.refresh()
    assert (mailer.standing.waiting, mailer.standing.parked) == (0, 2)


async def test_mails_wait_for_a_server_that_is_away(billing):
    await written(billing, ADA, "eve@example.com")
    port = free_port()
    mailer = mailer_of(billing, Smtp("127.0.0.1", port, FROM))
    assert await mailer.round() == 1  # one is tried, and not every one of them
    first, second = await rows(billing)
    assert (first["attempts"], second["attempts"]) == (1, 0)
    assert "ConnectError" in first["error"]
    await mailer.standing.refresh()
    assert mailer.standing.waiting == 2
    assert mailer.standing.lag_s >= 0
    await due(billing)
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        assert await mailer.round() == 2
    finally:
        controller.stop()
    assert sorted(mailbox.recipients) == [ADA, "eve@example.com"]


async def test_pauses_double_up_to_an_hour(billing):
    await written(billing, ADA)

    @asynccontextmanager
    async def away():
        raise MailFailed("away")
        yield

    mailer = mailer_of(billing, away, attempts=100)
    pauses = []
    for _ in range(9):
        await due(billing)
        await mailer.round()
        pauses.append(
            await billing.database.value("SELECT extract(epoch FROM next_attempt_at - now()) FROM mail_outbox")
        )
    assert [round(float(pause) / 60) for pause in pauses] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_without_a_server_mails_are_parked_in_time(billing):
    await written(billing, ADA)
    mailer = mailer_of(billing, None)
    assert await mailer.round() == 0
    await mailer.tidy()
    assert (await rows(billing))[0]["failed_at"] is None
    await billing.database.execute("UPDATE mail_outbox SET created_at = now() - interval '25 hours'")
    await mailer.tidy()
    [row] = await rows(billing)
    assert (row["body"], "SMTP_HOST" in row["error"]) == ("", True)
    await billing.database.execute("UPDATE mail_outbox SET created_at = now() - interval '31 days'")
    await mailer.tidy()
    assert await rows(billing) == []


async def test_the_loop_sends_where_it_has_the_lease_and_nowhere_else(billing, monkeypatch):
    monkeypatch.setattr("billing.identity.mailer.EVERY_S", 0.01)
    await written(billing, ADA)
    await billing.database.execute("INSERT INTO job_leases VALUES ('mail', 'another', now() + interval '1 hour')")
    asked, took = asyncio.Semaphore(0), asyncio.Event()
    take = billing.database.row

    async def noted(query, *arguments):
        asked.release()
        row = await take(query, *arguments)
        if query == TAKE_LEASE and row is not None:
            took.set()
        return row

    monkeypatch.setattr(billing.database, "row", noted)
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        sending = mailer_of(billing, Smtp("127.0.0.1", port, FROM)).work(Pending(billing.database))[0]
        running = asyncio.create_task(sending.run())
        async with asyncio.timeout(60):
            for _ in range(3):
                await asked.acquire()
            assert (mailbox.taken, took.is_set()) == ([], False)
            unable = asyncio.create_task(
                mailer_of(billing, None).work(Pending(billing.database))[0].run()
            )  # a gateway without SMTP_HOST keeps none back
            await took.wait()
            unable.cancel()
            await billing.database.execute("UPDATE job_leases SET until = 'infinity'")
            await billing.database.execute("DELETE FROM job_leases WHERE owner = 'another'")
            while not mailbox.taken:
                await asyncio.sleep(0.01)
        running.cancel()


async def test_the_console_shows_a_mail(billing, capsys):
    await written(billing, ADA)
    assert await mailer_of(billing, to_console).round() == 1
    shown = capsys.readouterr().err
    assert f"A mail to {ADA}: Metergate: hello" in shown
    assert "123456" in shown
    assert (await rows(billing))[0]["body"] == ""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of a server with a certificate of its own, and of a client that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


def accepts(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
    right = isinstance(given, LoginPassword) and (given.login, given.password) == (b"mailer", b"a secret of ours")
    return AuthResult(success=right, handled=False)


async def test_tls_begins_where_it_is_offered_and_the_password_goes_over_it(billing, certificate):
    await written(billing, ADA)
    mailbox = Mailbox()
    options = {"tls_context": certificate[0], "authenticator": accepts, "auth_required": True}
    with mail_server(mailbox, **options) as port:
        smtp = Smtp("localhost", port, FROM, "mailer", "a secret of ours", tls=certificate[1])
        assert "a secret of ours" not in repr(smtp)
        await mailer_of(billing, smtp).round()
    assert mailbox.over_tls == [True]


async def test_a_certificate_that_is_not_believed_gets_no_mail(billing, certificate):
    await written(billing, ADA)
    mailbox = Mailbox()
    with mail_server(mailbox, tls_context=certificate[0]) as port:
        await mailer_of(billing, Smtp("localhost", port, FROM)).round()
    assert mailbox.taken == []
    assert "certificate" in (await rows(billing))[0]["error"].lower()


async def test_a_wrong_password_is_the_server_s_fault_and_not_shown(billing, certificate):
    await written(billing, ADA)
    mailbox = Mailbox()
    with mail_server(mailbox, tls_context=certificate[0], authenticator=accepts, auth_required=True) as port:
        await mailer_of(billing, Smtp("localhost", port, FROM, "mailer", "another secret", tls=certificate[1])).round()
    [row] = await rows(billing)
    assert "535" in row["error"]
    assert "another secret" not in str(row)
    assert row["failed_at"] is None


async def test_the_password_is_not_sent_without_tls_to_another_machine(billing, monkeypatch):
    await written(billing, ADA)
    monkeypatch.setattr("billing.identity.mailer.is_this_machine", lambda host: False)
    mailbox = Mailbox()
    with mail_server(mailbox, authenticator=accepts, auth_require_tls=False) as port:
        await mailer_of(billing, Smtp("127.0.0.1", port, FROM, "mailer", "a secret of ours")).round()
    assert mailbox.taken == []
    assert "SMTP_PASSWORD is not sent" in (await rows(billing))[0]["error"]
