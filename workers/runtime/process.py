"""A process that serves, from its first moment to its last. Signals belong to it alone."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from config.settings import Settings
from models.log_event import LogEvent
from workers.consumer import Consumer
from workers.runtime.consuming import patiently, prepare, running_consumers, stop_all
from workers.runtime.http import serving_http
from workers.runtime.language_model import warn_of_unpriced_models
from workers.runtime.log_level import following_log_level
from workers.runtime.parts import VERSION, open_parts
from workers.runtime.tracing import worker_id

log = structlog.get_logger()


async def run_worker(settings: Settings) -> None:
    """Consume until SIGTERM or SIGINT, then drain, not ready and alive; a second signal cuts the grace short.

    HTTP is served from the first moment, so that ``/health`` can say what a worker that is not ready waits for.
    """
    bind_contextvars(worker_id=worker_id())
    signals = Signals()
    async with open_parts(settings) as parts, following_log_level(parts), AsyncExitStack() as stack:
        serving = serving_http(parts, consuming=True) if settings.http_enabled else nullcontext()
        health = await stack.enter_async_context(serving)
        if await signals.sooner_than(prepare(parts)):
            return
        async with running_consumers(parts) as consumers:
            log.info(LogEvent.WORKER_STARTED, version=VERSION, n_items=len(parts.index.current()))
            warn_of_unpriced_models(settings)
            await signals.next()
            if health:
                health.end()
            await drain_all(consumers, settings.shutdown_grace_s, signals)
    log.info(LogEvent.WORKER_STOPPED)


async def run_api(settings: Settings) -> None:
    """Serve HTTP alone until SIGTERM or SIGINT."""
    bind_contextvars(worker_id=worker_id())
    signals = Signals()
    async with open_parts(settings) as parts, following_log_level(parts), serving_http(parts, consuming=False):
        if not await signals.sooner_than(patiently(parts.broker.start)):
            await signals.next()


class Signals:
    """SIGTERM and SIGINT, from the first moment of the process to its last, taken one at a time."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived.put_nowait, number)

    async def next(self) -> None:
        """Return when a signal that was not taken before is there."""
        number = await self._arrived.get()
        log.info(LogEvent.SHUTDOWN_REQUESTED, signal=number.name)

    async def sooner_than(self, step: Coroutine[Any, Any, None]) -> bool:
        """Run ``step``; True where a signal came before its end and cancelled it. Raises what ``step`` raises."""
        running, signalled = asyncio.create_task(step), asyncio.create_task(self.next())
        await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
            return True
        signalled.cancel()
        await running
        return False


async def drain_all(consumers: Sequence[Consumer], grace_s: float, signals: Signals) -> None:
    """Drain all consumers side by side; a further signal meanwhile ends the grace at once."""
    if await signals.sooner_than(stop_all(consumers, grace_s)):
        await stop_all(consumers, 0)
