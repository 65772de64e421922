"""What a process tells of itself: lines on stderr, as text or as one JSON object each.

- One set-up for every process: `set_up`, first thing after the config is read.
- A line that speaks of one answer names it, under the same keys in every process: `about`.
- No prompt, key or person: a line has only the extras of `FIELDS`, one about an answer shows of an
  error the type and the place, not its words (they may quote what was said), and of others' code
  only warnings are heard, whatever the level: at `debug` they print whole requests.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict

from everlearn.events import Completion, Feedback, decode

OURS = (
    *("everlearn", "gateway", "collector", "evaluators", "registry", "trainer", "serving"),
    "console",
)
"""Loggers that the level is for."""
UVICORN = ("uvicorn", "uvicorn.access", "uvicorn.error")
DEAF = {"kafka": logging.CRITICAL}
"""It repeats each try to connect; what it comes to is told by our own lines."""
ANSWER = ("completion_id", "request_id")
"""Ours and the caller's own name of a request: a line with one of them speaks of an answer."""
FIELDS = (
    *ANSWER,
    *("task", "grader", "gateway_id", "seq", "method", "route", "status", "http_status", "ms"),
)
"""All that a line may carry beside its message."""
MESSAGE_CHARACTERS = 4000
ID_CHARACTERS = 256
ROWS_TOLD = 20

Names = dict[str, str]


class Logging(BaseModel):
    """What the processes tell of themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["text", "json"] = "text"
    """`json`: a line is an object with time, level, process, logger and message."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Of our own code; of others' only warnings and errors are told."""
    requests: bool = False
    """A line for every request that gateway, model server and console answer: route, status and
    names, no content and no client's address. Without it only for those that failed."""


def about(completion_id: str | None, request_id: str | None = None) -> Names:
    """`extra=` of a line that speaks of one answer."""
    names = {"completion_id": completion_id, "request_id": request_id}
    return {key: value for key, value in names.items() if value}


def about_event(event: Completion | Feedback) -> Names:
    """The same, of the answer that an event is or speaks of."""
    return about(event.completion_id, event.request_id)


def about_bytes(payload: bytes | memoryview) -> Names:
    """The same, of an event as it lies in a log; nothing where it cannot be read."""
    try:
        return about_event(decode(payload))
    except Exception:  # bytes of whatever kind
        return {}


def set_up(settings: Logging, process: str) -> None:
    """Tell what happens here from now on; errors that nobody catches included."""
    handler = _Stderr()
    handler.setFormatter(JsonLine(process) if settings.format == "json" else TextLine())
    root = logging.getLogger()
    for each in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(settings.level.upper())
    for name, level in DEAF.items():
        logging.getLogger(name).setLevel(level)
    if settings.format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _uncaught
        threading.excepthook = lambda args: _uncaught(
            args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
        )


def uvicorn_settings(process: str) -> dict[str, Any]:
    """For `--log-config` of a server that is not ours: its lines, access lines too, as JSON."""
    return {
        **{"version": 1, "disable_existing_loggers": False},
        "formatters": {"json": {"()": f"{__name__}.JsonLine", "process": process}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {name: {"level": "INFO", "propagate": True} for name in UVICORN},
        "root": {"handlers": ["stderr"], "level": "INFO"},
    }


def last_words(text: str) -> None:
    """Why this process ends, in the form of its other lines."""
    if any(isinstance(each.formatter, JsonLine) for each in logging.getLogger().handlers):
        logging.getLogger(__name__).critical("%s", text)
    else:
        print(f"everlearn: {text}", file=sys.stderr)


class _Stderr(logging.StreamHandler[TextIO]):
    """Ours among the handlers; whatever standard error is when a line is told."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class TextLine(logging.Formatter):
    """For people: time, level, logger, message, then names."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever a name or a message holds."""
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        line = f"{super().formatMessage(record)} {extras}".rstrip()
        return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)

    def format(self, record: logging.LogRecord) -> str:
        """As `logging` does it, but of an answer's error only type and place."""
        if not record.exc_info or not _speaks_of_an_answer(record):
            return super().format(record)
        shown = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return f"{super().format(shown)}\n{without_words(record.exc_info[1])}"


class JsonLine(logging.Formatter):
    """For programs: one JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """ASCII, so that half a character breaks no reader."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage()[:MESSAGE_CHARACTERS],
            **_extras(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            silent = _speaks_of_an_answer(record)
            error = record.exc_info[1]
            line["error"] = type(error).__name__
            line["traceback"] = without_words(error) if silent else _whole(error)
        return json.dumps(line)


def without_words(error: BaseException | None) -> str:
    """A traceback of types and places, the causes after it."""
    parts = []
    while error is not None:
        frames = traceback.format_tb(error.__traceback__)
        parts.append(f"{type(error).__name__}\n{''.join(frames)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "from ".join(parts).rstrip()


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    found = {key: getattr(record, key, None) for key in FIELDS}
    return {
        key: value[:ID_CHARACTERS] if isinstance(value, str) else value
        for key, value in found.items()
        if value is not None
    }


def _speaks_of_an_answer(record: logging.LogRecord) -> bool:
    return any(getattr(record, key, None) is not None for key in ANSWER)


def _uncaught(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, at)
        return
    logging.getLogger(__name__).critical("ends in an error", exc_info=(kind, error, at))


def tell_rows(log: logging.Logger, message: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One warning a row, up to `ROWS_TOLD`, then how many more: a loop over rows fills no disk."""
    for row in rows[:ROWS_TOLD]:
        log.warning("%s", message, extra=dict(row))
    if len(rows) > ROWS_TOLD:
        log.warning("%s: %d more", message, len(rows) - ROWS_TOLD)
