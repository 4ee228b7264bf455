"""Log lines as JSON, and which request they are about. No secret stands in them: none stands in a message."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from billing.times import rfc3339

REQUEST: Final[ContextVar[tuple[str, str | None]]] = ContextVar("request")
"""The id of the request that a task serves, and whose account it is about, once that is known."""


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, process, request_id, account_id and, where
    there is one, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. What is none of JSON's is shown as text."""
        request_id, account_id = REQUEST.get((None, None))
        line: dict[str, object] = {
            "time": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "request_id": request_id,
            "account_id": account_id,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
