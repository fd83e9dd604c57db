"""A process that has imported the command line, and forks for each run of it that it is asked for.

    python -m tests.support.fork_server     # standard input is a socket; see ``tests.support.program_forks``

A request is its length, with three descriptors beside it (standard output, standard error, and a socket for news), and
then JSON: ``arguments``, ``environment`` and ``stop_at`` (see ``tests.support.stop_points``). The news are
the process's id, and later its exit code.
"""

import contextlib
import gc
import importlib
import os
import pkgutil
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

import commands
from tests.support.stop_points import stand_still_at

LENGTH, NUMBER = struct.Struct("!I"), struct.Struct("!i")
N_FDS = 3

# What commands import only once they run, and workers nearly always.
_COMMANDS = (f"commands.{module.name}" for module in pkgutil.iter_modules(commands.__path__))
_SLOW = ("main", *_COMMANDS, "services.language_model", "services.migrations", "workers.runtime.process")


@dataclass(frozen=True, slots=True)
class _Request:
    arguments: list[str]
    environment: dict[str, str]
    stop_at: tuple[str, int] | None
    stdout: int
    stderr: int
    news: socket.socket


@dataclass(frozen=True, slots=True)
class _ForkServer:
    control: socket.socket
    running: dict[int, socket.socket] = field(default_factory=dict)

    def run(self) -> _Request | None:
        """Fork until ``control`` is closed, and then end what still runs: None. In a fork, at once: its request."""
        with selectors.DefaultSelector() as ready, _ended_children() as ended:
            ready.register(self.control, selectors.EVENT_READ)
            ready.register(ended, selectors.EVENT_READ)
            while True:
                spoke = [key.fileobj for key, _ in ready.select()]
                if ended in spoke:
                    ended.recv(4096)
                    self._tell_ends()
                if self.control in spoke:
                    request = _read(self.control)
                    if request is None or self._fork(request):
                        break
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        return request

    def _fork(self, request: _Request) -> bool:
        """True in the new process, which has forgotten the others."""
        if pid := os.fork():
            os.close(request.stdout)
            os.close(request.stderr)
            request.news.send(NUMBER.pack(pid))
            self.running[pid] = request.news
            return False
        for each in (*self.running.values(), request.news, self.control):
            each.close()
        self.running.clear()
        return True

    def _tell_ends(self) -> None:
        for pid, news in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with news, contextlib.suppress(OSError):
                    news.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))
                del self.running[pid]


def _read(control: socket.socket) -> _Request | None:
    head, fds, _, _ = socket.recv_fds(control, LENGTH.size, N_FDS)
    if not head:
        return None
    body = bytearray()
    while missing := LENGTH.unpack(head)[0] - len(body):
        body += control.recv(missing)
    asked = orjson.loads(body)
    stop_at = asked["stop_at"] and tuple(asked["stop_at"])
    return _Request(asked["arguments"], asked["environment"], stop_at, fds[0], fds[1], socket.socket(fileno=fds[2]))


@contextlib.contextmanager
def _ended_children() -> Iterator[socket.socket]:
    """A socket with something to read whenever a child has ended; afterwards signals are as ever."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    with reading, writing:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _become(request: _Request) -> None:
    """Take on the arguments, the environment and the streams that the process would have been started with."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(request.stdout, 1)
    os.dup2(request.stderr, 2)
    os.closerange(3, max(request.stdout, request.stderr) + 1)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    sys.argv[:] = ["main.py", *request.arguments]
    # Ignored where whoever started the tests did so in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.stop_at:
        stand_still_at(*request.stop_at)


if __name__ == "__main__":
    modules = [importlib.import_module(name) for name in _SLOW]
    gc.collect()
    gc.freeze()
    if asked := _ForkServer(socket.socket(fileno=os.dup(0))).run():
        _become(asked)
        modules[0].app(prog_name="main.py")
