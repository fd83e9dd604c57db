"""Log lines: JSON for machines, colours on a terminal, and no secret in either.

Our own lines and those of the libraries (stdlib ``logging``) leave through the same processors.
"""

import logging
import re
import sys
from collections.abc import Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

# Chatty at INFO about what our own events say already.
QUIET_LOGGERS = (
    "aio_pika", "aiormq", "alembic", "apscheduler", "asyncmy", "fastapi", "httpcore", "httpcore2", "httpx", "httpx2",
    "langchain", "langchain_core", "langchain_openai", "openai", "sqlalchemy", "uvicorn", "uvicorn.access",
    "uvicorn.error",
)  # fmt: skip

MASK = "***"
# Greedy up to the last @: of a password that itself holds an @, no tail must stay.
_URL_PASSWORD = re.compile(r"""(://[^\s:/@"']*:)(?:[^\s"'\\]|\\.)+@""")
_API_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{8,}")
_CREDENTIAL = re.compile(
    r"""(\b(?:proxy-)?authorization|password|passwd|api[_-]?key|client_secret)([\\"']*\s*[:=]\s*[\\"']*)"""
    r"""(?:(?:bearer|basic)\s+)?[^\s\\"',}&]+""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s+)(?!\*)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# Most lines hold none of these, and to look for fixed words costs a tenth of one pattern.
_SUSPICIOUS = ("://", "sk-", "authorization", "passw", "api", "client_secret", "bearer")


def mask_secrets(text: str) -> str:
    """``text`` without passwords of URLs, ``sk-`` keys and authorization values: the last line of defence.

    It would rather mask too much than too little.
    """
    lowered = text.lower()
    if not any(word in lowered for word in _SUSPICIOUS):
        return text
    text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    text = _CREDENTIAL.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _API_KEY.sub(f"sk-{MASK}", text)


def configure_logging(
    level: LogLevel = "INFO",
    fmt: LogFormat = "auto",
    *,
    secrets: Collection[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Set up structlog and stdlib logging for the whole process; a second call replaces the first.

    ``secrets`` are masked wherever they stand, whatever they look like. Lines go to ``stream`` (standard error unless
    given), so that standard output stays a command's own.
    """
    stream = stream or sys.stderr
    on_console = is_for_people(fmt, stream)
    shared = _shared_processors(on_console=on_console)
    render = _masked(_console_renderer(stream) if on_console else _render_json, secrets)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        # Loggers live at module level: a cached one would keep what was configured before.
        cache_logger_on_first_use=False,
    )
    _route_libraries(level, shared, render, stream)


def is_for_people(fmt: LogFormat, stream: TextIO) -> bool:
    """Whether lines go to a terminal, or are to look as if they did; else they are JSON."""
    return fmt == "console" or (fmt == "auto" and stream.isatty())


def set_level(level: LogLevel) -> None:
    """Change the lowest level that is logged from now on, of our own lines and of those of libraries."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    _set_library_level(level)


@contextmanager
def unsaid(event: str) -> Iterator[None]:
    """Within it no line of ours says ``event``, of which people are told otherwise."""

    def drop(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        if line["event"] == event:
            raise structlog.DropEvent
        return line

    # In place, as capture_logs of structlog does it: loggers that are bound already hold this list.
    processors: list[Processor] = structlog.get_config()["processors"]
    processors.insert(0, drop)
    try:
        yield
    finally:
        processors.remove(drop)


def _shared_processors(*, on_console: bool) -> list[Processor]:
    timestamp = structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if on_console else "iso", utc=not on_console)
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, timestamp]
    return shared if on_console else [*shared, structlog.processors.format_exc_info]


def _console_renderer(stream: TextIO) -> Processor:
    # Not rich's tracebacks: they show local variables, secrets among them.
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )


def _render_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        # A line must come out, whatever a message held.
        return orjson.dumps({name: _encodable(value) for name, value in event.items()}).decode()


def _encodable(value: object) -> object:
    """``value``, or where JSON cannot carry it (integers beyond 64 bits, half a surrogate pair) its ASCII repr."""
    try:
        return orjson.Fragment(orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS))
    except orjson.JSONEncodeError:
        return ascii(value)


def _masked(renderer: Processor, secrets: Collection[str]) -> Callable[[WrappedLogger, str, EventDict], str]:
    # The longest first: one may be the beginning of another.
    known = re.compile("|".join(re.escape(each) for each in sorted(secrets, key=len, reverse=True)))

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = str(renderer(logger, method, event))
        return mask_secrets(known.sub(MASK, line) if secrets else line)

    return render


def _route_libraries(level: LogLevel, shared: list[Processor], render: Processor, stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    _set_library_level(level)
    logging.captureWarnings(capture=True)


def _set_library_level(level: LogLevel) -> None:
    root = logging.getLogger()
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
