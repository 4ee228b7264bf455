"""Log lines as JSON."""

import io
import json
import logging
from contextvars import copy_context

from billing.logs import JsonFormatter, log_about, subject, write_json


def logger_of(text: io.StringIO) -> logging.Logger:
    logger = logging.Logger("metergate.test")
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    return logger


def test_a_line_is_json_and_says_which_request_it_is_about():
    text = io.StringIO()
    logger = logger_of(text)

    def served():
        log_about("req_1", "acc_1")
        logger.warning("two\nlines of %s", "ünïcode")

    copy_context().run(served)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in text.getvalue().splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("two\nlines of ünïcode", "warning", "metergate.test")
    assert (first["request_id"], first["account_id"]) == ("req_1", "acc_1")
    assert (second["request_id"], second["account_id"]) == (None, None)
    assert "ValueError: wrong" in second["exception"]


def test_what_goes_on_after_its_request_keeps_its_lines_when_the_connection_serves_another():
    text = io.StringIO()
    logger = logger_of(text)

    def connection():
        subject().request_id = "req_1"
        left = copy_context()
        left.run(log_about, "req_1", "acc_1")
        subject().request_id = "req_2"
        left.run(logger.warning, "the end of the first")
        logger.warning("the second")

    copy_context().run(connection)
    assert [json.loads(line)["request_id"] for line in text.getvalue().splitlines()] == ["req_1", "req_2"]


def test_all_lines_of_a_process_are_json(monkeypatch):
    handler = logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    write_json()
    logging.getLogger("gateway.process.supervisor").warning("worker 3 ended with code -9")
    assert json.loads(handler.stream.getvalue())["message"] == "worker 3 ended with code -9"
