"""Waiting for a condition instead of sleeping."""

import asyncio
from collections.abc import Awaitable, Callable

_POLL_S = 0.01


async def until(condition: Callable[[], Awaitable[object]], *, within_s: float = 20.0) -> None:
    """Return once ``condition`` holds; raises ``TimeoutError`` where it does not come true in time."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - what changes is in another program
            await asyncio.sleep(_POLL_S)
