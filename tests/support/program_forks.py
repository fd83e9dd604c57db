"""The command line in processes forked from one that has imported it: an import takes longer than most tests.

Arguments, environment, standard streams and signals are the process's own. What it does not show is that
``python main.py`` starts by itself; for that, start it by itself.
"""

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import orjson

from tests.support.fork_server import LENGTH, NUMBER

ROOT = Path(__file__).parents[2]


class ForkedProgram:
    """One run of the command line; as ``asyncio.subprocess.Process``, as far as the tests ask."""

    def __init__(
        self, pid: int, news: socket.socket, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._ending = asyncio.create_task(self._end(news))

    async def wait(self) -> int:
        """The exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._ending)

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it wrote, once it has ended."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing where it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _end(self, news: socket.socket) -> int:
        with news:
            self.returncode = code = await _number(news)
        return code


async def fork_program(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    one_stream: bool = False,
    stop_at: tuple[str, int] | None = None,
) -> ForkedProgram:
    """Run ``main.py`` with ``arguments`` and no other environment; ``one_stream``: stderr goes where stdout goes.

    ``stop_at``: it stands still at such a call, as ``tests.support.stop_points`` says.
    """
    server = await asyncio.to_thread(_server)
    news, theirs = socket.socketpair()
    news.setblocking(False)
    stdout, out_fd = await _pipe()
    stderr, err_fd = await _pipe()
    with theirs:
        fds = [out_fd, out_fd if one_stream else err_fd, theirs.fileno()]
        request = orjson.dumps({"arguments": list(arguments), "environment": dict(environment), "stop_at": stop_at})
        socket.send_fds(server, [LENGTH.pack(len(request))], fds)
        server.sendall(request)
    os.close(out_fd)
    os.close(err_fd)
    return ForkedProgram(await _number(news), news, stdout, stderr)


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: _ReadToItsEnd(reader), os.fdopen(reading, "rb", buffering=0)
    )
    return reader, writing


class _ReadToItsEnd(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # or uvloop would leave the pipe open


async def _number(news: socket.socket) -> int:
    return int(NUMBER.unpack(await asyncio.get_running_loop().sock_recv(news, NUMBER.size))[0])


@cache
def _server() -> socket.socket:
    """To one that is started with the first fork, and ends, with all its forks, when this process does."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            # a process of many threads should not fork
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
