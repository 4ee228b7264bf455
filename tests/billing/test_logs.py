"""Log lines as JSON."""

import io
import json
import logging

from billing.logs import REQUEST, JsonFormatter


def logger_of(text: io.StringIO) -> logging.Logger:
    logger = logging.Logger("metergate.test")
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    return logger


def test_a_line_is_json_and_says_which_request_it_is_about() -> None:
    text = io.StringIO()
    logger = logger_of(text)
    token = REQUEST.set(("req_1", "acc_1"))
    try:
        logger.warning("two\nlines of %s", "ünïcode")
    finally:
        REQUEST.reset(token)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in text.getvalue().splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("two\nlines of ünïcode", "warning", "metergate.test")
    assert (first["request_id"], first["account_id"]) == ("req_1", "acc_1")
    assert (second["request_id"], second["account_id"]) == (None, None)
    assert "ValueError: wrong" in second["exception"]
