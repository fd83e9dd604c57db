"""The level of log lines, followed while a process serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.log_level import RedisLogLevel, follow_log_level
from services.logs import set_level
from workers.runtime.parts import Parts


@asynccontextmanager
async def following_log_level(parts: Parts) -> AsyncIterator[None]:
    """Log as all workers are told to while the block runs."""
    told = RedisLogLevel(parts.redis, group=parts.settings.name_prefix)
    following = asyncio.create_task(follow_log_level(told, parts.settings.log_level, set_level), name="log-level")
    try:
        yield
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
