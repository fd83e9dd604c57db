"""Fixtures and hooks of all tests: real servers, one uvloop, Hypothesis profiles."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.empty_stores import empty_database, empty_logical_database, flush, recreate_database
from tests.support.programs import Program, install_missing
from tests.support.servers import BreakableServer, GivenServer, Kind, Need, Servers, server_or_skip

# those that others import come first: what is imported already cannot have its asserts explained
pytest_plugins = [
    "tests.support.prometheus",
    "tests.support.alertmanager",
    "tests.support.llm_server",
    "tests.support.tls_servers",
    "tests.support.browser",
]

# Machines are shared: how long an example takes says nothing.
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=False,
    max_examples=int(os.environ.get("TEST_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")

_NEEDS = {
    "amqp_url": Need(Kind.RABBITMQ),
    "mysql_url": Need(Kind.MYSQL),
    "redis_url": Need(Kind.REDIS),
    "private_rabbitmq": Need(Kind.RABBITMQ, breakable=True),
    "private_mysql": Need(Kind.MYSQL, breakable=True),
    "private_redis": Need(Kind.REDIS, breakable=True),
}
_PROGRAMS = {
    "prometheus_server": Program.PROMETHEUS,
    "promtool": Program.PROMTOOL,
    "alertmanager_server": Program.ALERTMANAGER,
    "amtool": Program.AMTOOL,
    "chromium": Program.CHROMIUM,
}
_SERVERS = pytest.StashKey[Servers]()
_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the event loop that the worker runs on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    """A run that is told to terminate cleans up as an interrupted one does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = config.stash[_SERVERS] = Servers()
    config.add_cleanup(servers.close)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        # The processes that run the tests are given what they share; servers to be broken each has of its own.
        os.environ.update(servers.shared())
        install_missing(_PROGRAMS.values(), print)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that need no server first: the servers start while those run.

    Of the others those that may take longest come first, lest one process be left with them at the end. Else the order
    stays random.
    """
    items.sort(key=lambda item: (bool(_needs(item)), -_may_take_s(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to start every server that a selected test needs, and install the programs."""
    if session.config.option.collectonly:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter else print
    if needs := {need for item in session.items for need in _needs(item)}:
        session.config.stash[_SERVERS].begin(needs, say)
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    install_missing([program for name, program in _PROGRAMS.items() if name in used], say)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for the test's servers before its time limit begins; what goes wrong there is reported by its fixtures."""
    for need in _needs(item):
        try:
            item.config.stash[_SERVERS].wait(need)
        except Exception:  # noqa: BLE001, S112 - raised again where pytest shows it: when the fixture asks
            continue
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly which tests did not run, and what would let them."""
    servers = config.stash[_SERVERS]
    for note in servers.notes:
        terminalreporter.write_line(note, yellow=True)
    for advice in servers.missing.values():
        terminalreporter.write_line(f"TESTS WERE SKIPPED: {advice}", red=True, bold=True)


def _may_take_s(item: pytest.Item) -> float:
    """Its own time limit; 0 where it has none beyond that of all tests."""
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit else 0.0


def _needs(item: pytest.Item) -> list[Need]:
    return [_NEEDS[name] for name in getattr(item, "fixturenames", ()) if name in _NEEDS]


def _server(request: pytest.FixtureRequest, need: Need) -> BreakableServer | GivenServer:
    return server_or_skip(request.config.stash[_SERVERS], need, is_ci=bool(os.environ.get("CI")))


def _breakable(request: pytest.FixtureRequest, kind: Kind) -> BreakableServer:
    server = _server(request, Need(kind, breakable=True))
    assert not isinstance(server, GivenServer)
    server.start()
    return server


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """A RabbitMQ that other tests use too: name queues and exchanges uniquely, and delete them."""
    return _server(request, Need(Kind.RABBITMQ)).url


@pytest.fixture
def mysql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty MySQL or MariaDB database (utf8mb4) of this test's own, dropped afterwards."""
    with empty_database(_server(request, Need(Kind.MYSQL)).url) as url:
        yield url


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty logical Redis database of this test's own, flushed afterwards."""
    with empty_logical_database(_server(request, Need(Kind.REDIS)).url) as url:
        yield url


@pytest.fixture
def private_rabbitmq(request: pytest.FixtureRequest) -> BreakableServer:
    """A running RabbitMQ that this test may break; it is repaired for the next one. Queues stay: name them uniquely."""
    return _breakable(request, Kind.RABBITMQ)


@pytest.fixture
def private_mysql(request: pytest.FixtureRequest) -> BreakableServer:
    """A running MySQL or MariaDB that this test may break; ``url`` names an empty database."""
    server = _breakable(request, Kind.MYSQL)
    recreate_database(server.url)
    return server


@pytest.fixture
def private_redis(request: pytest.FixtureRequest) -> BreakableServer:
    """A running, empty Redis with an append-only file that this test may break."""
    server = _breakable(request, Kind.REDIS)
    flush(server.url)
    return server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The public data sets beside the repository."""
    if not _DATA.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return _DATA
