"""The LLM server of the tests as a process of its own, so that its CPU time is not the worker's."""

import asyncio
import sys
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.private_servers import free_port
from tests.support.worker_process import ROOT


class LLMProcess:
    """``python -m tests.support.llm_server`` on a free port, between entering and leaving.

    ``host``: where it listens; 0.0.0.0 lets containers ask it too, at ``port``.
    """

    def __init__(self, *, delay_s: float = 0.0, host: str = "127.0.0.1") -> None:
        self.port, self._delay_s, self._host = free_port(), delay_s, host
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """What ``OPENAI_BASE_URL`` is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.llm_server",
            f"--host={self._host}",
            f"--port={self.port}",
            f"--delay-s={self._delay_s}",
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            assert await self._process.stdout.readline(), "the LLM server ended while it started"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def stats(self) -> dict[str, Any]:
        """What the server has counted."""
        async with httpx.AsyncClient() as client:
            return dict((await client.get(f"http://127.0.0.1:{self.port}/stats")).json())

    async def n_calls(self) -> int:
        """Chat requests so far."""
        return int((await self.stats())["n_calls"])

    async def set_faults(self, *faults: dict[str, object]) -> None:
        """Make the next calls fail so; none: heal."""
        async with httpx.AsyncClient() as client:
            (await client.post(f"http://127.0.0.1:{self.port}/faults", json=list(faults))).raise_for_status()

    async def mean_usage(self) -> str:
        """Tokens per answered call."""
        stats = await self.stats()
        n = max(1, stats["n_answered"])
        return f"{stats['prompt_tokens'] / n:,.0f} / {stats['completion_tokens'] / n:,.0f}"
