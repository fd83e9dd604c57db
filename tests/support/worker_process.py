"""The worker as operations run it: a process of its own, spoken to by broker, cache, HTTP and signals alone."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.private_servers import free_port
from tests.support.program_forks import ForkedProgram, fork_program

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """``python main.py worker`` on a free port; ``environment`` are its settings, ``program`` may stand for main.py.

    ``forked``: from a process that has imported everything, which spares seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        command: Sequence[str] = ("worker",),
        program: Path = ROOT / "main.py",
        *,
        forked: bool = False,
    ) -> None:
        self.http_port = free_port()
        self._environment = {**os.environ, **environment, "HTTP_PORT": str(self.http_port), "LOG_FORMAT": "json"}
        self._command = command
        self._program = program
        self._forked = forked
        self._process: asyncio.subprocess.Process | ForkedProgram | None = None
        self._log: list[str] = []
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def was_launched(self) -> bool:
        return self._process is not None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def log(self) -> str:
        return "".join(self._log)

    async def start(self, timeout_s: float = 40.0) -> None:
        """Start it, and return once it says that it is ready."""
        await self.launch()
        await self.wait_ready(timeout_s)

    async def launch(self) -> None:
        """Start it, and wait for nothing."""
        self._process = await (self._fork() if self._forked else self._start_afresh())
        self._reader = asyncio.create_task(self._read_log())

    def _fork(self) -> Coroutine[Any, Any, ForkedProgram]:
        return fork_program(self._command, self._environment, one_stream=True)

    def _start_afresh(self) -> Coroutine[Any, Any, asyncio.subprocess.Process]:
        return asyncio.create_subprocess_exec(
            sys.executable,
            str(self._program),
            *self._command,
            env=self._environment,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def first_health(self, within_s: float) -> httpx.Response:
        """What it says of its health as soon as it says anything."""
        async with asyncio.timeout(within_s), self.client() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    return await client.get("/health")
                await asyncio.sleep(0.1)

    async def wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        async with self.client() as client:
            while time.monotonic() < deadline:
                if self._process is None or self._process.returncode is not None:
                    raise RuntimeError(f"the worker ended while it started:\n{self.log[-4000:]}")
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise TimeoutError(f"the worker was not ready within {timeout_s} s:\n{self.log[-4000:]}")

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}", timeout=5)

    async def metrics(self) -> str:
        async with self.client() as client:
            return (await client.get("/metrics")).text

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def terminate(self, timeout_s: float = 40.0) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM, timeout_s)

    async def _end(self, number: signal.Signals, timeout_s: float = 40.0) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self.ended(timeout_s)

    async def ended(self, timeout_s: float = 40.0) -> int:
        """Wait until it has ended by itself; the exit code."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._log.append(line.decode(errors="replace"))


@contextlib.asynccontextmanager
async def worker(
    environment: Mapping[str, str], command: Sequence[str] = ("worker",), *, afresh: bool = False
) -> AsyncIterator[WorkerProcess]:
    """A ready worker, forked if it need not start ``afresh``, killed at the end if it still lives."""
    process = WorkerProcess(environment, command, forked=not afresh)
    try:
        await process.start()
        yield process
    finally:
        await process.kill()
