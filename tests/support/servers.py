"""Real servers for the tests, found or started in one of four ways, the first that works.

1. a given URL: ``TEST_BROKER_URL``, ``TEST_DATABASE_URL``, ``TEST_REDIS_URL``;
2. a container, where a Docker Engine answers;
3. a private process of a locally installed program, after installing Debian's packages where root and apt allow;
4. none: the tests that need it skip, loudly; under ``CI`` they fail.

Tests of MariaDB's vector index run on that database where it is a MariaDB of 11.7 or newer, else on the one of
``TEST_VECTOR_DATABASE_URL``, else they skip.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import pytest

from tests.support import debian_packages
from tests.support.container_servers import MySQLInContainer, RabbitMQInContainer, RedisInContainer, docker_answers
from tests.support.handshakes import Handshake, amqp_handshake, mysql_handshake, redis_handshake, wait_until_ready
from tests.support.private_servers import PrivateMySQL, PrivateRabbitMQ, PrivateRedis

GIVEN_TIMEOUT_S = 20.0
Say = Callable[[str], None]


class BreakableServer(Protocol):
    """A server of the tests' own, which fault tests stop, kill and start again."""

    @property
    def url(self) -> str:
        """Where clients connect; the same after every restart."""

    @property
    def running(self) -> bool:
        """Whether the server lives."""

    def start(self) -> None:
        """Start the server, and return once it answers; nothing where it runs already."""

    def stop(self) -> None:
        """End the server in good order, and return once it is gone."""

    def kill(self) -> None:
        """SIGKILL, as a power cut looks to its clients."""

    def restart(self) -> None:
        """Stop and start."""

    def close(self) -> None:
        """Kill the server and remove all that it wrote."""


class Kind(StrEnum):
    """The servers that the worker needs."""

    RABBITMQ = "RabbitMQ"
    MYSQL = "MySQL"
    REDIS = "Redis"


class Way(StrEnum):
    """Where a server comes from."""

    GIVEN = "given URL"
    CONTAINER = "container"
    PROCESS = "private process"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is known about one kind of server."""

    variable: str
    package: str
    handshake: Handshake
    container: Callable[[], BreakableServer]
    process: Callable[[], BreakableServer]
    installed: Callable[[], bool]


RECIPES = {
    Kind.RABBITMQ: Recipe(
        "TEST_BROKER_URL",
        "rabbitmq-server",
        amqp_handshake,
        RabbitMQInContainer,
        PrivateRabbitMQ,
        PrivateRabbitMQ.installed,
    ),
    Kind.MYSQL: Recipe(
        "TEST_DATABASE_URL", "mariadb-server", mysql_handshake, MySQLInContainer, PrivateMySQL, PrivateMySQL.installed
    ),
    Kind.REDIS: Recipe(
        "TEST_REDIS_URL", "redis-server", redis_handshake, RedisInContainer, PrivateRedis, PrivateRedis.installed
    ),
}


class NoServer(Exception):
    """No way leads to a server of this kind; the sentence says what to install."""


@dataclass(frozen=True, slots=True)
class Need:
    """One server that collected tests ask for: the shared one of its kind, or the one that may be broken."""

    kind: Kind
    breakable: bool = False


class GivenServer:
    """A server that somebody else owns: used, never stopped."""

    def __init__(self, recipe: Recipe, url: str) -> None:
        self._recipe, self.url = recipe, url

    def start(self) -> None:
        """Return once it answers; raises ``RuntimeError`` naming the variable that gave it."""
        try:
            wait_until_ready(self._recipe.handshake, self.url, timeout_s=GIVEN_TIMEOUT_S, check_alive=lambda: None)
        except TimeoutError as error:
            raise RuntimeError(f"{self._recipe.variable} is set, but its server gives {error}") from error

    def close(self) -> None:
        """Leave it as it is."""


class Servers:
    """The servers of one test session: started in the background when asked for, closed at its end."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        recipes: Mapping[Kind, Recipe] = RECIPES,
        docker_answers: Callable[[], bool] = docker_answers,
        install: Callable[[Sequence[str]], str | None] | None = None,
    ) -> None:
        self._environment, self._recipes = environment, recipes
        self._docker_answers = docker_answers
        self._install = install or (debian_packages.install if debian_packages.can_install() else None)
        self._pool = ThreadPoolExecutor(max_workers=6, thread_name_prefix="server-start")
        self._starting: dict[Need, Future[BreakableServer | GivenServer]] = {}
        self._started: list[BreakableServer | GivenServer] = []
        self._docker: bool | None = None
        self.missing: dict[Kind, str] = {}
        self.notes: list[str] = []

    def begin(self, needs: Collection[Need], say: Say) -> None:
        """Choose a way for each need, install what is missing once, and start all of them side by side."""
        self._install_missing(needs, say)
        for need in sorted(needs, key=str):
            way = self._way(need)
            say(f"{need.kind}{' (to be broken)' if need.breakable else ''}: {way}")
            if way is not Way.NONE:
                self._starting[need] = self._pool.submit(self._start, need, way)
            else:
                self.missing.setdefault(need.kind, _advice(need.kind, self._recipes[need.kind]))
        # its threads end with their work, and do not stand in the stacks that a timed-out test shows
        self._pool.shutdown(wait=False)

    def shared(self) -> dict[str, str]:
        """Start one server of each kind that can be had, and say by which variables others are given them."""
        self.begin([Need(kind) for kind in self._recipes], print)
        return {
            recipe.variable: self.wait(Need(kind)).url
            for kind, recipe in self._recipes.items()
            if kind not in self.missing
        }

    def wait(self, need: Need) -> BreakableServer | GivenServer:
        """The running server; raises ``NoServer``, or whatever kept it from starting."""
        if need.kind in self.missing and need not in self._starting:
            raise NoServer(self.missing[need.kind])
        return self._starting[need].result()

    def close(self) -> None:
        """Close all that was started, in whatever state it is."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.ExitStack() as stack:
            for server in self._started:
                stack.callback(server.close)

    def _start(self, need: Need, way: Way) -> BreakableServer | GivenServer:
        server = self._make(need, way)
        self._started.append(server)
        try:
            server.start()
        except OSError as error:  # an image that cannot be fetched is one, as docker's and requests' errors are
            if way is not Way.CONTAINER or not self._recipes[need.kind].installed():
                raise
            self.notes.append(f"{need.kind}: no container ({error}); a private process instead")
            return self._start(need, Way.PROCESS)
        return server

    def _make(self, need: Need, way: Way) -> BreakableServer | GivenServer:
        recipe = self._recipes[need.kind]
        if way is Way.GIVEN:
            return GivenServer(recipe, self._environment[recipe.variable])
        return recipe.container() if way is Way.CONTAINER else recipe.process()

    def _way(self, need: Need) -> Way:
        recipe = self._recipes[need.kind]
        if not need.breakable and self._environment.get(recipe.variable):
            return Way.GIVEN
        if self._docker is None:
            self._docker = self._docker_answers()
        if self._docker:
            return Way.CONTAINER
        return Way.PROCESS if recipe.installed() else Way.NONE

    def _install_missing(self, needs: Collection[Need], say: Say) -> None:
        lacking = {need.kind for need in needs if self._way(need) is Way.NONE}
        if not lacking or self._install is None:
            return
        packages = sorted(self._recipes[kind].package for kind in lacking)
        say(f"installing Debian's packages {' '.join(packages)}, once (their services stay stopped)")
        if complaint := self._install(packages):
            say(f"apt could not install them:\n{complaint}")


def server_or_skip(servers: Servers, need: Need, *, is_ci: bool) -> BreakableServer | GivenServer:
    """The running server; without one the test that asks skips, and fails where ``is_ci``."""
    try:
        return servers.wait(need)
    except NoServer as error:
        if is_ci:
            pytest.fail(f"{error} (CI is set, so this is a failure)", pytrace=False)
        pytest.skip(str(error))


def _advice(kind: Kind, recipe: Recipe) -> str:
    return (
        f"no {kind}: set {recipe.variable}, or start Docker, or install the program "
        f"(on Debian: apt-get install {recipe.package})"
    )
