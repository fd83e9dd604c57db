"""Servers as child processes: locally installed programs, on free ports, in a temporary directory of their own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.handshakes import (
    Handshake,
    amqp_handshake,
    mysql_handshake,
    redis_handshake,
    wait_until_ready,
)

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0
_BELOW_EPHEMERAL_PORTS = range(18_000, 32_000)
_SYSTEM_PROGRAMS = ("/usr/sbin", "/usr/local/sbin")
_RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def find_program(name: str) -> str | None:
    """The path of an installed program; ``/usr/sbin`` is searched too, where Debian keeps mariadbd."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS)))


def free_port() -> int:
    """A port that nothing listens on, outside the range that the kernel gives to outgoing connections.

    A port inside that range may be taken by a client while its server is down, and the server could not come back.
    Drawn by the system: ``random`` is seeded alike in all processes of a test run.
    """
    while True:
        port = secrets.choice(_BELOW_EPHEMERAL_PORTS)
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


class PrivateServer(ABC):
    """One server process that the tests own, and may stop, kill and start again on the same port and data."""

    kind: str
    handshake: Handshake

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"songs-ai-{self.kind}-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; the same after every restart."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The server program and its arguments."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what must be there before the first start."""

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and return once it answers."""
        if self._process is None:
            self._prepare()
        if not self.running:
            self._process = self._spawn(self._command(), self._environment())
        wait_until_ready(self.handshake, self.url, timeout_s=_START_TIMEOUT_S, check_alive=self._check_alive)

    def stop(self) -> None:
        """End the server in good order, and return once it is gone."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a power cut looks to its clients."""
        self._signal(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove all that it wrote."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=os.environ | environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _run(self, command: Sequence[str]) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(command, cwd=self.directory, stdout=log, stderr=log, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{self._log_tail()}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_TIMEOUT_S)

    def _check_alive(self) -> None:
        if not self.running:
            raise RuntimeError(f"{self.kind} ended while it started:\n{self._log_tail()}")

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])


class PrivateRedis(PrivateServer):
    """redis-server with an append-only file."""

    kind = "redis"
    handshake = staticmethod(redis_handshake)

    @staticmethod
    def installed() -> bool:
        """Whether the program is there."""
        return find_program("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def append_only_file(self) -> Path:
        """Where every write is, in order, over all restarts; another one only after ``appendonly`` was off and on."""
        directory = self.directory / "appendonlydir"
        manifest = (directory / "appendonly.aof.manifest").read_text()
        return directory / [line.split()[1] for line in manifest.splitlines() if line.endswith("type i")][-1]

    def _command(self) -> Sequence[str]:
        # appendfsync always: by default a write waits up to two seconds for a slow disk, and is answered before
        options = (
            f"--port {self.port} --bind 127.0.0.1 --dir {self.directory} --databases 64 "
            "--appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0"
        )
        return [find_program("redis-server") or "redis-server", *options.split(), "--save", ""]


class PrivateMySQL(PrivateServer):
    """MariaDB or, where that is not installed, MySQL; root has no password."""

    kind = "mysql"
    handshake = staticmethod(mysql_handshake)

    @staticmethod
    def installed() -> bool:
        """Whether one of the two is there."""
        mariadb = find_program("mariadbd") and find_program("mariadb-install-db")
        return bool(mariadb or find_program("mysqld"))

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/songs"

    def _prepare(self) -> None:
        for directory in (self._data, self._temporary):
            directory.mkdir()
            if os.geteuid() == 0:
                shutil.chown(directory, "mysql", "mysql")
        self._run([*self._initialise(), *self._directories(), *self._as_user()])

    def _initialise(self) -> Sequence[str]:
        if installer := find_program("mariadb-install-db"):
            return [installer, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
        return [find_program("mysqld") or "mysqld", "--no-defaults", "--initialize-insecure"]

    def _command(self) -> Sequence[str]:
        server = find_program("mariadbd") or find_program("mysqld") or "mysqld"
        return [
            server,
            "--no-defaults",
            *self._directories(),
            f"--socket={self._data / 's.sock'}",
            f"--pid-file={self._data / 'server.pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            # 2: a commit outlives the process, not the machine; an fsync for each would be the tests' slowest part
            "--innodb-flush-log-at-trx-commit=2",
            "--skip-log-bin",
            *self._as_user(),
        ]

    def _as_user(self) -> Sequence[str]:
        # both servers refuse to run as root
        return ["--user=mysql"] if os.geteuid() == 0 else []

    def _directories(self) -> Sequence[str]:
        # a server that starts removes all temporary tables from its tmpdir, those of its living neighbours too
        return [f"--datadir={self._data}", f"--tmpdir={self._temporary}"]

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _temporary(self) -> Path:
        return self.directory / "tmp"


class PrivateRabbitMQ(PrivateServer):
    """A RabbitMQ node with a name, a cookie and a port mapper of its own, so that no other node can meet it."""

    kind = "rabbitmq"
    handshake = staticmethod(amqp_handshake)

    def __init__(self, *, first: "PrivateRabbitMQ | None" = None) -> None:
        """A node of its own, or one that joins the cluster of the ``first``."""
        super().__init__()
        self._first = first
        self._distribution_port = free_port()
        self._epmd_port: int = first._epmd_port if first else free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        """Whether the server and Erlang's port mapper are there."""
        return _RABBITMQ_SERVER.exists() and find_program("epmd") is not None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _command(self) -> Sequence[str]:
        # not /usr/sbin/rabbitmq-server: Debian's wrapper insists on the system's user and directories
        return [str(_RABBITMQ_SERVER)]

    def _prepare(self) -> None:
        (self.directory / "plugins").write_text("[].")
        if self._first is not None:
            self._join(self._first)
            return
        # in the foreground: the daemon that the node would start by itself outlives every test run
        self._epmd = self._spawn([find_program("epmd") or "epmd", "-port", str(self._epmd_port)], {})
        wait_until_ready(_accepts, f":{self._epmd_port}", timeout_s=10, check_alive=lambda: None)

    def _join(self, first: "PrivateRabbitMQ") -> None:
        shutil.copy2(first.directory / ".erlang.cookie", self.directory / ".erlang.cookie")
        formation = f"cluster_formation.classic_config.nodes.1 = {first.node}\n"
        (self.directory / "rabbitmq.conf").write_text(formation)

    @property
    def node(self) -> str:
        """Its name among nodes."""
        return f"songs-ai-{self.port}@localhost"

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            # idle schedulers sleep instead of spinning: the tests need the cores more
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def control(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` prints; raises ``CalledProcessError`` where it fails."""
        done = subprocess.run(
            [str(_RABBITMQ_SERVER.with_name("rabbitmqctl")), "--quiet", "--node", self.node, *arguments],
            env=os.environ | self._environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def close(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        super().close()


def _accepts(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port.removeprefix(":"))), timeout=1).close()
