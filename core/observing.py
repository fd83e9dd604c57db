"""Counting that can not fail what it counts."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from models.log_event import LogEvent

log = structlog.get_logger()


@contextmanager
def unfailing() -> Iterator[None]:
    """Ends and logs whatever the block raises: for calls of an ``Observer``, on which no result depends."""
    try:
        yield
    except Exception:
        # The boundary to whoever watches: a bug there must not cost an answer that is paid for.
        log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, part="observer")
