"""Servers in containers, through testcontainers, where a Docker Engine answers."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.handshakes import (
    Handshake,
    amqp_handshake,
    mysql_handshake,
    redis_handshake,
    wait_until_ready,
)
from tests.support.private_servers import free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGES = {"mysql": "mysql:8.4", "redis": "redis:8-alpine", "rabbitmq": "rabbitmq:4-management"}
_DEFAULT_SOCKET = Path("/var/run/docker.sock")
_PROBE_TIMEOUT_S = 2
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 30


def docker_answers() -> bool:
    """Whether a Docker Engine answers a ping within two seconds, at DOCKER_HOST or the default socket."""
    if not os.environ.get("DOCKER_HOST") and not _DEFAULT_SOCKET.exists():
        return False
    import docker  # noqa: PLC0415 - a third of a second that a machine without Docker need not pay
    import docker.errors  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=_PROBE_TIMEOUT_S)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


class ContainerServer(ABC):
    """One server in a container, with the same handle as a private process.

    Its port on this machine is chosen here: one that Docker chooses changes whenever the container is started again.
    """

    kind: str
    handshake: Handshake
    inner_port: int

    def __init__(self) -> None:
        self._container: DockerContainer | None = None
        self._port = free_port()
        self._host = "127.0.0.1"

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; the same after every restart."""

    @abstractmethod
    def _describe(self) -> "DockerContainer":
        """The container, not yet started."""

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        if self._container is None:
            return False
        self._container.reload()
        return self._container.status == "running"

    def start(self) -> None:
        """Start the container, fetching its image where it is absent, and return once the server answers."""
        if self._container is None:
            self._container = self._describe().with_bind_ports(self.inner_port, self._port)
            self._container.start()
            self._host = self._container.get_container_host_ip()
        elif not self.running:
            self._container.get_wrapped_container().start()
        wait_until_ready(self.handshake, self.url, timeout_s=_START_TIMEOUT_S, check_alive=self._check_alive)

    def stop(self) -> None:
        """End the server in good order, and return once it is gone."""
        if self._container is not None and self.running:
            self._container.get_wrapped_container().stop(timeout=_STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL, as a power cut looks to its clients."""
        if self._container is not None and self.running:
            wrapped = self._container.get_wrapped_container()
            wrapped.kill()
            wrapped.wait(timeout=_STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Remove the container and its volumes."""
        if self._container is not None:
            self._container.stop()

    def _check_alive(self) -> None:
        if self._container is not None and not self.running:
            out, err = self._container.get_logs()
            raise RuntimeError(f"{self.kind} ended while it started:\n{(out + err)[-2000:].decode(errors='replace')}")


class RedisInContainer(ContainerServer):
    """Redis 8 with an append-only file."""

    kind = "redis"
    handshake = staticmethod(redis_handshake)
    inner_port = 6379

    @property
    def url(self) -> str:
        return f"redis://{self._host}:{self._port}/0"

    def _describe(self) -> "DockerContainer":
        from testcontainers.community.redis import RedisContainer  # noqa: PLC0415 - imported where Docker is

        return RedisContainer(IMAGES[self.kind]).with_command("redis-server --appendonly yes --databases 64")


class MySQLInContainer(ContainerServer):
    """MySQL 8.4."""

    kind = "mysql"
    handshake = staticmethod(mysql_handshake)
    inner_port = 3306

    @property
    def url(self) -> str:
        return f"mysql://root:test@{self._host}:{self._port}/songs"

    def _describe(self) -> "DockerContainer":
        from testcontainers.community.mysql import MySqlContainer  # noqa: PLC0415 - imported where Docker is

        return MySqlContainer(IMAGES[self.kind], username="root", password="test")


class RabbitMQInContainer(ContainerServer):
    """RabbitMQ 4. testcontainers' own class for it warns at import, so this is a plain container."""

    kind = "rabbitmq"
    handshake = staticmethod(amqp_handshake)
    inner_port = 5672

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self._host}:{self._port}/"

    def _describe(self) -> "DockerContainer":
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - imported where Docker is
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

        ready = LogMessageWaitStrategy("Server startup complete").with_startup_timeout(_START_TIMEOUT_S)
        return DockerContainer(IMAGES[self.kind]).waiting_for(ready)
