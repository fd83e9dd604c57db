"""The connection: URLs as people write them, errors as ours, nothing secret said, nothing waited for too long."""

import asyncio
import sqlite3
import time
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from core.errors import ConfigurationError, DependencyUnavailable
from services.database import Database, open_database, parse_url, sync_engine
from services.migrations import upgrade
from tests.support.catalogue import OnMySql, OnSqlite, execute
from tests.support.garbling_proxy import garbling_proxy
from tests.support.rude_server import rude_server
from tests.support.servers import BreakableServer
from tests.support.waiting import until

SECRET = "pa55-word"

# A reply of one column whose name is no UTF-8 (the protocol's ColumnDefinition41), at which asyncmy raises as it comes.
_COLUMN = b"\x03def\x00\x00\x00\x01\xff\x00\x0c\x21\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00"
UNREADABLE_REPLY = b"\x01\x00\x00\x01\x01" + bytes([len(_COLUMN), 0, 0, 2]) + _COLUMN


@pytest.mark.parametrize(
    "scheme", ["mysql", "mysql+pymysql", "mysql+asyncmy", "mysql+aiomysql", "mariadb", "mariadb+pymysql"]
)
def test_any_driver_in_the_url_means_mysql(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:{SECRET}@db.example:3307/songs?charset=utf8")
    assert (url.drivername, url.host, url.port, url.database) == ("mysql", "db.example", 3307, "songs")
    assert SECRET not in f"{url} {url!r}"


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"mysql://me:{SECRET}@host:port/songs",
        f"mysql://me:{SECRET}@host:3306",
        f"mysql://me:{SECRET}@host/songs?useSSL=false",
        f"postgresql://me:{SECRET}@host/songs",
        f"jdbc:mysql://me:{SECRET}@host/songs",
        "",
    ],
)
def test_a_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        Database(url)
    assert SECRET not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x0a",
        b"\x05\x00\x00\x00\x0a8.0\x00",
        b"\x05\x00\x00\x00\x0a\xff\xfe\xfd\x00",
        b"\x03\x00\x00\x00\xff\x28\x04",
    ],
)
async def test_what_hangs_up_or_is_no_database_is_an_unavailable_dependency(greeting: bytes) -> None:
    with rude_server(greeting) as port:
        url = f"mysql://me:{SECRET}@127.0.0.1:{port}/songs"
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            for _ in range(20):  # which error the driver meets is a matter of timing
                with pytest.raises(DependencyUnavailable, match=r"^mysql: ."):
                    await database.ping()
        with pytest.raises(DependencyUnavailable, match=r"^mysql: ."):
            await asyncio.to_thread(upgrade, url)


class DatabaseTests:
    async def test_it_answers(self, url: str) -> None:
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            await database.ping()

    async def test_a_missing_table_is_a_matter_of_configuration(self, url: str) -> None:
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match="song_like"):
                await _run(database, "SELECT * FROM song_like")

    async def test_a_missing_column_is_a_matter_of_configuration(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT)")
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match="no_such_name"):
                await _run(database, "SELECT no_such_name FROM t")

    async def test_a_missing_table_of_ours_names_the_command_that_makes_it(self, url: str) -> None:
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match=r"python main\.py migrate"):
                await _run(database, "SELECT * FROM songs_ai_embedding")

    async def test_a_broken_constraint_comes_out_as_the_bug_it_is_and_hides_its_values(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a VARCHAR(20) PRIMARY KEY, b VARCHAR(20))")
        insert = sa.text("INSERT INTO t (a, b) VALUES ('x', :b)")
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            with pytest.raises(exc.IntegrityError) as caught:
                await _run_twice(database, insert, {"b": SECRET})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("bug", [IndexError, RuntimeError, ValueError, KeyError])
    async def test_a_bug_under_a_connection_comes_out_as_the_bug_it_is(self, url: str, bug: type[Exception]) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            with pytest.raises(bug):
                async with database.connect():
                    raise bug
            with pytest.raises(bug):
                async with database.begin():
                    raise bug

    async def test_a_parameter_that_is_no_unicode_comes_out_as_the_bug_it_is(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database, database.connect() as connection:
            with pytest.raises(UnicodeEncodeError):
                await connection.execute(sa.text("SELECT :a"), {"a": "\ud800"})

    async def test_a_transaction_that_fails_leaves_nothing(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT PRIMARY KEY)")
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            with pytest.raises(exc.IntegrityError):
                await _run_twice(database, sa.text("INSERT INTO t VALUES (1)"), {})
            assert await _run(database, "SELECT COUNT(*) FROM t") == 0

    async def test_a_transaction_that_ends_is_seen_by_the_next_reader(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT PRIMARY KEY)")
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            for n in range(3):
                async with database.begin() as connection:
                    await connection.execute(sa.text("INSERT INTO t VALUES (:n)"), {"n": n})
                assert await _run(database, "SELECT COUNT(*) FROM t") == n + 1

    async def test_no_free_connection_in_time_is_an_unavailable_dependency(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=0.2) as database, database.connect(n_round_trips=50):
            with pytest.raises(DependencyUnavailable):
                await database.ping()

    async def test_a_lock_held_too_long_is_an_unavailable_dependency(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        async with (
            open_database(url, pool_size=1, timeout_s=30) as patient,
            open_database(url, pool_size=1, timeout_s=0.5) as hasty,
            patient.begin() as holder,
        ):
            await holder.exec_driver_sql("UPDATE t SET a = 2")
            with pytest.raises(DependencyUnavailable):
                async with hasty.begin(n_round_trips=1) as waiter:
                    await waiter.exec_driver_sql("UPDATE t SET a = 3")

    async def test_a_cancelled_task_leaves_the_pool_usable(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT)")
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            for _ in range(5):
                task = asyncio.create_task(_run(database, "SELECT COUNT(*) FROM t"))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await _run(database, "SELECT COUNT(*) FROM t") == 0


class TestDatabaseOnMySql(OnMySql, DatabaseTests):
    async def test_an_answer_that_takes_too_long_is_an_unavailable_dependency(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=0.3) as database:
            began = time.monotonic()
            with pytest.raises(DependencyUnavailable, match="in time"):
                await _run(database, "SELECT SLEEP(20)")
            assert time.monotonic() - began < 5
            await database.ping()

    async def test_a_deadlock_is_an_unavailable_dependency(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT PRIMARY KEY, b INT)", "INSERT INTO t VALUES (1, 0), (2, 0)")
        both_hold_one = asyncio.Barrier(2)

        async def update(database: Database, first: int, second: int) -> None:
            async with database.begin() as connection:
                await connection.execute(sa.text("UPDATE t SET b = b + 1 WHERE a = :a"), {"a": first})
                await both_hold_one.wait()
                await connection.execute(sa.text("UPDATE t SET b = b + 1 WHERE a = :a"), {"a": second})

        async with open_database(url, pool_size=2, timeout_s=10) as database:
            outcomes = await asyncio.gather(update(database, 1, 2), update(database, 2, 1), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome] == [DependencyUnavailable]

    async def test_instants_are_utc_and_text_is_any_text(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            assert await _run(database, "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())") == 0
            assert await _run(database, "SELECT '노래 曲 🎵'") == "노래 曲 🎵"

    async def test_a_read_is_one_statement_on_the_wire(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            before = await _n_questions(database)
            n = 5
            for _ in range(n):
                await _run(database, "SELECT 1")
            after = await _n_questions(database)
        # Each read, and the ping that looks whether its connection still lives.
        assert after - before <= 2 * (n + 1)

    def test_migrations_and_offline_steps_speak_utf8_and_utc_too(self, url: str) -> None:
        engine = sync_engine(url)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT '노래 曲 🎵'").scalar() == "노래 曲 🎵"
            assert connection.exec_driver_sql("SELECT @@session.time_zone").scalar() == "+00:00"
        engine.dispose()

    async def test_a_wrong_password_is_told_without_it(self, url: str) -> None:
        wrong = sa.make_url(url).set(username="nobody", password=SECRET).render_as_string(hide_password=False)
        async with open_database(wrong, pool_size=1, timeout_s=5) as database:
            with pytest.raises(DependencyUnavailable, match="nobody") as caught:
                await database.ping()
        assert SECRET not in str(caught.value) + repr(caught.value) + str(caught.value.__cause__)

    async def test_a_reply_that_is_none_is_an_unavailable_dependency_and_its_connection_is_not_used_again(
        self, url: str
    ) -> None:
        with garbling_proxy(url, b"'unreadable'", UNREADABLE_REPLY) as proxy:
            async with open_database(proxy, pool_size=1, timeout_s=5) as database:
                session = await _run(database, "SELECT CONNECTION_ID()")
                with pytest.raises(DependencyUnavailable, match=r"^mysql: no answer such as .*UnicodeDecodeError"):
                    await _run(database, "SELECT 'unreadable'")
                assert await _run(database, "SELECT CONNECTION_ID()") != session

    @pytest.mark.parametrize("reply", [b"", UNREADABLE_REPLY], ids=["cut", "garbled"])
    @pytest.mark.parametrize("marker", [b"ISOLATION LEVEL REPEATABLE", b"'marked'"])
    async def test_a_connection_cut_or_garbled_anywhere_in_a_transaction_is_an_unavailable_dependency(
        self, url: str, marker: bytes, reply: bytes
    ) -> None:
        with garbling_proxy(url, marker, reply) as proxy:
            async with open_database(proxy, pool_size=1, timeout_s=5) as database:
                await database.ping()
                with pytest.raises(DependencyUnavailable, match=r"^mysql: ."):
                    async with database.begin() as connection:
                        await connection.exec_driver_sql("SELECT 'marked'")
                await database.ping()

    async def test_a_connection_that_the_server_closed_is_replaced_unnoticed(self, url: str) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            session = await _run(database, "SELECT CONNECTION_ID()")
            execute(url, f"KILL {session}")
            assert await _run(database, "SELECT CONNECTION_ID()") != session

    async def test_a_server_that_comes_back_is_used_again(self, private_mysql: BreakableServer) -> None:
        async with open_database(private_mysql.url, pool_size=2, timeout_s=2) as database:
            await database.ping()
            private_mysql.stop()
            with pytest.raises(DependencyUnavailable, match="mysql"):
                await database.ping()
            private_mysql.start()
            await database.ping()


class TestDatabaseOnSqlite(OnSqlite, DatabaseTests):
    async def test_one_in_memory_is_shared_by_all_its_connections(self) -> None:
        async with open_database("sqlite:///:memory:", pool_size=3, timeout_s=5) as database:
            async with database.begin() as connection:
                await connection.exec_driver_sql("CREATE TABLE t (a INT)")
                await connection.exec_driver_sql("INSERT INTO t VALUES (7)")
            async with database.connect(), database.connect():
                assert await _run(database, "SELECT a FROM t") == 7

    async def test_two_in_memory_are_apart(self) -> None:
        async with (
            open_database("sqlite://", pool_size=1, timeout_s=5) as one,
            open_database("sqlite://", pool_size=1, timeout_s=5) as other,
        ):
            await _run(one, "CREATE TABLE t (a INT)", reads=False)
            with pytest.raises(ConfigurationError, match="no such table"):
                await _run(other, "SELECT a FROM t")

    async def test_one_in_memory_outlives_a_task_that_is_cancelled(self) -> None:
        async with open_database("sqlite://", pool_size=1, timeout_s=5) as database:
            await _run(database, "CREATE TABLE t (a INT)", reads=False)
            task = asyncio.create_task(_run(database, "SELECT COUNT(*) FROM t"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await _run(database, "SELECT COUNT(*) FROM t") == 0

    @pytest.mark.parametrize("n_cancellations", [1, 2])
    @pytest.mark.parametrize("n_steps", range(1, 12))
    async def test_whenever_a_task_is_cancelled_no_connection_stays_open(
        self, url: str, monkeypatch: pytest.MonkeyPatch, n_steps: int, n_cancellations: int
    ) -> None:
        opened = _OpenedInSqlite()
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=opened.connection))
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            task = asyncio.create_task(_run(database, "SELECT 1"))
            await _steps(n_steps)
            for _ in range(n_cancellations):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([task])
            assert task.cancelled()
        await until(opened.some_and_all_are_closed)

    async def test_what_a_transaction_read_is_still_so_when_it_writes(self, url: str) -> None:
        execute(url, "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (0)")

        async def increment(database: Database) -> None:
            async with database.begin() as connection:
                before = (await connection.exec_driver_sql("SELECT a FROM t")).scalar_one()
                await _steps(20)
                await connection.execute(sa.text("UPDATE t SET a = :a"), {"a": before + 1})

        async with open_database(url, pool_size=4, timeout_s=10) as database:
            await asyncio.gather(*(increment(database) for _ in range(4)))
            assert await _run(database, "SELECT a FROM t") == 4

    async def test_a_file_in_no_directory_is_an_unavailable_dependency(self) -> None:
        async with open_database("sqlite:////no/such/directory/songs.db", pool_size=1, timeout_s=5) as database:
            with pytest.raises(DependencyUnavailable, match=r"^sqlite: "):
                await database.ping()


class _OpenedInSqlite:
    """Every connection made by its ``connection``, with whether it was closed by anyone but the garbage collector."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []

    def connection(self, *args: Any, **options: Any) -> sqlite3.Connection:
        opened = sqlite3.Connection(*args, **options)
        self.connections.append(opened)
        return opened

    async def some_and_all_are_closed(self) -> bool:
        return bool(self.connections) and all(_is_closed(connection) for connection in self.connections)


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        _ = connection.total_changes
    except sqlite3.ProgrammingError as error:
        return "closed" in str(error)
    return False


async def _steps(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def _run(database: Database, statement: str, *, reads: bool = True) -> object:
    async with database.connect() as connection:
        result = await connection.exec_driver_sql(statement)
        return result.scalar() if reads else None


async def _n_questions(database: Database) -> int:
    """The statements that the server has had from the pool's connection."""
    async with database.connect() as connection:
        result = await connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'")
        return int(result.scalars(1).one())


async def _run_twice(database: Database, statement: sa.TextClause, parameters: dict[str, str]) -> None:
    """Run the statement twice in one transaction."""
    async with database.begin() as connection:
        await connection.execute(statement, parameters)
        await connection.execute(statement, parameters)
