"""Which server the tests run on, and that none of them outlives the run."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.handshakes import amqp_handshake, redis_handshake, wait_until_ready
from tests.support.private_servers import PrivateRedis, PrivateServer, free_port
from tests.support.servers import RECIPES, Kind, Need, NoServer, Servers, Way, server_or_skip

ROOT = Path(__file__).parents[1]
SHARED, BREAKABLE = Need(Kind.REDIS), Need(Kind.REDIS, breakable=True)


class ScriptedServer:
    """Starts, or fails to, without a process."""

    def __init__(self, way: Way, failure: Exception | None = None) -> None:
        self.way, self.failure = way, failure
        self.url = f"{way}://"
        self.running = self.closed = False

    def start(self) -> None:
        if self.failure:
            raise self.failure
        self.running = True

    def stop(self) -> None:
        self.running = False

    kill = stop

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self.closed = True


class Machine:
    """A machine with or without Docker, the program, and apt."""

    def __init__(
        self, *, docker: bool = False, program: bool = False, apt: bool = False, no_image: bool = False
    ) -> None:
        self.program, self.apt, self.no_image = program, apt, no_image
        self.docker = docker
        self.installs: list[Sequence[str]] = []
        self.made: list[ScriptedServer] = []
        self.said: list[str] = []

    def servers(self, **environment: str) -> Servers:
        recipe = replace(
            RECIPES[Kind.REDIS],
            handshake=lambda _url: None,
            container=self._make(Way.CONTAINER),
            process=self._make(Way.PROCESS),
            installed=lambda: self.program,
        )
        return Servers(environment, {Kind.REDIS: recipe}, docker_answers=lambda: self.docker, install=self._install)

    def _make(self, way: Way) -> Callable[[], ScriptedServer]:
        def make() -> ScriptedServer:
            failure = OSError("no such image") if self.no_image and way is Way.CONTAINER else None
            self.made.append(ScriptedServer(way, failure))
            return self.made[-1]

        return make

    def _install(self, packages: Sequence[str]) -> str | None:
        self.installs.append(packages)
        self.program = self.apt
        return None if self.apt else "no network"


@contextlib.contextmanager
def begun(machine: Machine, *needs: Need, **environment: str) -> Iterator[Servers]:
    servers = machine.servers(**environment)
    try:
        servers.begin(needs, machine.said.append)
        yield servers
    finally:
        servers.close()


# --- the choice ---


def test_a_given_url_comes_first() -> None:
    machine = Machine(docker=True, program=True)
    with begun(machine, SHARED, TEST_REDIS_URL="redis://theirs") as servers:
        assert servers.wait(SHARED).url == "redis://theirs"
    assert machine.made == []


def test_a_given_server_is_never_broken() -> None:
    machine = Machine(program=True)
    with begun(machine, SHARED, BREAKABLE, TEST_REDIS_URL="redis://theirs") as servers:
        assert servers.wait(BREAKABLE).url == "private process://"


def test_several_processes_are_given_one_server_of_each_kind_that_can_be_had() -> None:
    here, nowhere = Machine(program=True).servers(), Machine().servers()
    try:
        assert here.shared() == {"TEST_REDIS_URL": "private process://"}
        assert nowhere.shared() == {}
        assert "no Redis" in nowhere.missing[Kind.REDIS]
    finally:
        here.close()
        nowhere.close()


def test_docker_comes_before_an_installed_program() -> None:
    with begun(Machine(docker=True, program=True), SHARED) as servers:
        assert servers.wait(SHARED).url == "container://"


def test_an_installed_program_is_run_where_docker_does_not_answer() -> None:
    machine = Machine(program=True)
    with begun(machine, SHARED, BREAKABLE) as servers:
        assert servers.wait(SHARED).url == servers.wait(BREAKABLE).url == "private process://"
    assert len(machine.made) == 2
    assert machine.installs == []


def test_an_image_that_cannot_be_fetched_gives_way_to_an_installed_program() -> None:
    with begun(Machine(docker=True, program=True, no_image=True), SHARED) as servers:
        assert servers.wait(SHARED).url == "private process://"
        assert servers.notes == ["Redis: no container (no such image); a private process instead"]


def test_an_image_that_cannot_be_fetched_is_an_error_where_nothing_else_is_there() -> None:
    with begun(Machine(docker=True, no_image=True), SHARED) as servers, pytest.raises(OSError, match="no such image"):
        servers.wait(SHARED)


def test_a_missing_program_is_installed_once_for_all_that_need_it() -> None:
    machine = Machine(apt=True)
    with begun(machine, SHARED, BREAKABLE) as servers:
        assert servers.wait(SHARED).url == "private process://"
    assert machine.installs == [["redis-server"]]
    assert machine.said[0].startswith("installing Debian's packages redis-server")


@pytest.mark.parametrize(("is_ci", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_without_a_server_a_test_skips_on_a_laptop_and_fails_in_ci(is_ci: bool, outcome: type[BaseException]) -> None:
    machine = Machine()
    with (
        begun(machine, SHARED) as servers,
        pytest.raises(outcome, match=r"TEST_REDIS_URL.*apt-get install redis-server"),
    ):
        server_or_skip(servers, SHARED, is_ci=is_ci)
    assert any("no network" in line for line in machine.said)
    assert list(servers.missing) == [Kind.REDIS]


def test_everything_started_is_closed_even_if_closing_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(program=True)
    servers = machine.servers()
    servers.begin([SHARED, BREAKABLE], machine.said.append)
    servers.wait(SHARED), servers.wait(BREAKABLE)
    first, second = machine.made
    monkeypatch.setattr(second, "close", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        servers.close()
    assert first.closed


def test_nobody_gets_a_server_that_was_not_there() -> None:
    with begun(Machine(), SHARED) as servers, pytest.raises(NoServer):
        servers.wait(SHARED)


# --- readiness ---


def test_a_handshake_tells_protocols_apart(mysql_url: str) -> None:
    with pytest.raises(OSError, match="does not speak AMQP"):
        amqp_handshake(mysql_url)


def test_waiting_ends_with_the_last_refusal() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0 s: .*refused"):
        wait_until_ready(redis_handshake, f"redis://127.0.0.1:{free_port()}", timeout_s=0, check_alive=lambda: None)


def test_ports_are_outside_the_range_of_outgoing_connections() -> None:
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32_768
    assert all(1024 < free_port() < first for _ in range(20))


class BrokenServer(PrivateServer):
    """Says why, and ends."""

    kind = "broken"
    handshake = staticmethod(redis_handshake)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        return ["sh", "-c", "echo the disk is full; exit 3"]


def test_a_server_that_ends_at_its_start_shows_what_it_said() -> None:
    with contextlib.closing(BrokenServer()) as server, pytest.raises(RuntimeError, match="the disk is full"):
        server.start()
    assert not server.directory.exists()


# --- the end ---

BLOCKING_TEST = """
import os

def test_that_is_interrupted(private_redis):
    os.write({descriptor}, f"{{private_redis._process.pid}} {{private_redis.directory}}".encode())
    os.close({descriptor})
    os.read({blocker}, 1)
"""


def test_a_terminated_run_leaves_no_server_behind(tmp_path: Path) -> None:
    if not PrivateRedis.installed():  # asked now: the run itself may have installed it
        pytest.skip("no redis-server on this machine")
    (reader, writer), (blocker, release) = os.pipe(), os.pipe()
    (tmp_path / "test_blocking.py").write_text(BLOCKING_TEST.format(descriptor=writer, blocker=blocker))
    environment = os.environ | {
        "DOCKER_HOST": "unix:///nowhere",
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-c", "/dev/null"]
    with subprocess.Popen(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        pass_fds=(writer, blocker),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as run:
        os.close(writer)
        with os.fdopen(reader) as said:
            words = said.read().split()
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=40)
    os.close(blocker)
    os.close(release)
    assert words, output.decode()
    with pytest.raises(ProcessLookupError):
        os.kill(int(words[0]), 0)
    assert not Path(words[1]).exists()
