"""A worker that consumes events alone, as a process of its own that can be killed: ``python -m`` this module.

Its settings are those of a worker, from the environment; it says ``consuming`` once it does.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import uvloop

from config.settings import Settings
from services.logs import configure_logging
from workers.queue_ages import QueueAges
from workers.runtime.events import event_parts
from workers.runtime.parts import open_parts


class EventConsumer:
    """The process; ``environment`` are its settings."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, within_s: float = 60.0) -> None:
        """Start it, and return once it consumes."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.event_consumer", env=self._environment, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            assert (await self._process.stdout.readline()).strip() == b"consuming"

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal, and return its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


@contextlib.asynccontextmanager
async def event_consumer(environment: Mapping[str, str]) -> AsyncIterator[EventConsumer]:
    """A consumer that consumes; killed at the end if it still lives."""
    consumer = EventConsumer(environment)
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.end(signal.SIGKILL)


async def _consume() -> None:
    settings, stopped = Settings(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    configure_logging("WARNING", "json")
    async with open_parts(settings) as parts:
        await parts.broker.start()
        consumer, taking_in = event_parts(parts, QueueAges(parts.clock))
        running = asyncio.create_task(_forever(taking_in()))
        await consumer.start()
        print("consuming", flush=True)  # noqa: T201 - to whoever started it
        await stopped.wait()
        await consumer.stop(settings.shutdown_grace_s)
        running.cancel()


async def _forever(loop: object) -> None:
    await loop  # type: ignore[misc]


if __name__ == "__main__":
    uvloop.run(_consume())
