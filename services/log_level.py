"""The level of all workers' log lines, changed while they run: a key in Redis that they look at, and that expires."""

import asyncio
from collections.abc import Callable
from typing import cast, get_args

import structlog
from redis.asyncio import Redis

from core.errors import DependencyUnavailable
from models.log_event import LogEvent
from services.logs import LogLevel
from services.redis_client import redis_errors

log = structlog.get_logger()

LOOK_EVERY_S = 2.0
_LEVELS = frozenset(get_args(LogLevel))


class RedisLogLevel:
    """What the workers of one ``group`` (``NAME_PREFIX``) log for the time being."""

    def __init__(self, client: Redis, *, group: str) -> None:
        self._client = client
        self._key = f"songs_ai:log_level:{group}"

    async def set(self, level: LogLevel, *, for_s: int) -> None:
        """Let all log from ``level`` on, for so long. Raises ``DependencyUnavailable``, as the other two do."""
        with redis_errors():
            await self._client.set(self._key, level, ex=for_s)

    async def clear(self) -> None:
        """Let each log as its own settings say."""
        with redis_errors():
            await self._client.delete(self._key)

    async def get(self) -> LogLevel | None:
        """What was set; None where nothing is in force, or a word that is no level."""
        with redis_errors():
            found = cast("bytes | None", await self._client.get(self._key))
        word = found.decode(errors="replace") if found else ""
        return cast("LogLevel", word) if word in _LEVELS else None


async def follow_log_level(
    told: RedisLogLevel, own: LogLevel, apply: Callable[[LogLevel], None], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Have ``apply`` told of each change until cancelled: what was set for all, else ``own``.

    While Redis is away the level stays as it is.
    """
    current = own
    while True:
        try:
            wanted = await told.get() or own
        except DependencyUnavailable:
            wanted = current
        if wanted != current:
            # A level that hides this line must not hide that it was set.
            log.warning(LogEvent.LOG_LEVEL_CHANGED, before=current, now=wanted)
            current = wanted
            apply(current)
        await asyncio.sleep(every_s)
