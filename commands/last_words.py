"""The last line of a process that serves, where its lines are JSON and read by programs."""

import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from config.settings import LogFormat, LogSettings
from core.errors import SettingsRefused
from models.log_event import LogEvent
from services.logs import configure_logging, is_for_people
from workers.runtime.tracing import worker_id


def logged(error: Exception, hint: str, *, code: int, traceback: bool) -> bool:
    """Whether what ended the process with the exit ``code`` was logged; where its lines are for people, it is not."""
    fmt = _format()
    if is_for_people(fmt, sys.stderr):
        return False
    if isinstance(error, SettingsRefused):
        # It ended before logging was set up.
        configure_logging(fmt=fmt)
    structlog.get_logger().error(
        LogEvent.PROCESS_FAILED,
        worker_id=worker_id(),
        error=str(error) if isinstance(error, SettingsRefused) else f"{type(error).__name__}: {error}",
        **({"hint": hint} if hint else {}),
        exit_code=code,
        exc_info=error if traceback else None,
    )
    return True


def _format() -> LogFormat:
    try:
        return LogSettings().log_format
    except (ValidationError, SettingsError, UnicodeDecodeError):
        return "auto"
