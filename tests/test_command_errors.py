"""What commands say where something is missing: one sentence on it, what to do next, and an exit code; no traceback."""

import logging
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs
from typer.main import get_group

from commands.listing import LISTED
from commands.running import start
from core.errors import DependencyUnavailable
from main import app
from models.log_event import LogEvent
from tests.support.command import Outcome, run_here
from workers.amqp_broker import AmqpBroker
from workers.topology import build_topology

AWAY = {
    "database": ("DATABASE_URL", "mysql://u:hunter2@127.0.0.1:1/d"),
    "redis": ("REDIS_URL", "redis://:hunter2@127.0.0.1:1/0"),
    "broker": ("BROKER_URL", "amqp://u:hunter2@127.0.0.1:1/"),
}
# As little as each can be asked for, and the servers without which it fails, where nothing else stops it sooner.
ASKED = {
    "demo-catalogue --songs 20 --members 2": "database",
    "first-recommendation --timeout-s 0": "database",
    "publish --member 7": "broker",
    "result no-such-job": "redis",
    "refresh --dry-run": "database",
    "refresh --batch": "",
    "refresh --queue": "",
    "dead-letters list": "broker",
    "dead-letters show no-such-job": "broker",
    "dead-letters replay --all": "broker",
    "dead-letters purge --all --yes": "broker",
    "migrate": "database",
    "migrate --down": "database",
    "ingest {songs}": "",
    "import backend --from {other}": "database",
    "import rawg": "",
    "import spotify --search x": "",
    "check": "database",
    "check {songs}": "",
    "embed": "database",
    "retrieval": "database",
    "fit --budget-s 0": "database",
    "models list": "database",
    "models history": "database",
    "models promote x": "database",
    "models rollback": "database",
    "rank --train {likes} --queries {likes} --out {out}": "",
    "evaluate {likes} --budget-s 0": "",
    "simulate --members 2 --days 1": "database",
    "simulate --remove": "database",
    "simulate --live --members 2 --days 1": "",
    "schedule": "database",
    "digest": "database redis broker",
    "clean-up": "database",
    "log-level own": "redis",
    "forget --member 7": "database redis broker",
    "forget --member 7 --look": "database redis broker",
}
# They wait for servers, or bring their own.
NOT_ASKED = {"worker", "api", "demo", "dashboard"}

# A setting, an option, a command or a file: what there is to mend, or to do.
NEXT = re.compile(r"\b[A-Z]+(_[A-Z]+)+\b|--[a-z]|`[a-z]|\.csv\b")


@pytest.fixture(autouse=True)
def impatience() -> Iterator[None]:
    """A broker is waited for, but not for long; its library may speak again afterwards."""
    library = logging.getLogger("aiormq.connection")
    level = library.level
    with patch("commands.running.BROKER_S", 0.1), patch("commands.site._BROKER_S", 0.1):
        yield
    library.setLevel(level)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "likes.csv").write_text("user_id,item_id\n", encoding="utf-8")
    (tmp_path / "songs.csv").write_text("what,is,this\n1,2,3\n", encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE something_else (of_no_use)")
    return {
        "likes": str(tmp_path / "likes.csv"),
        "songs": str(tmp_path / "songs.csv"),
        "other": f"sqlite:///{tmp_path / 'other.db'}",
        "out": str(tmp_path / "ranked.csv"),
    }


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a database that is not there yet, and an LLM of which nobody is asked anything."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}",
        "LOG_LEVEL": "ERROR",
        "OPENAI_API_KEY": "sk-none",
        "OPENAI_BASE_URL": "http://127.0.0.1:1",
    }


def test_every_command_is_asked_here() -> None:
    assert {asked.split()[0] for asked in ASKED} == set(LISTED) - NOT_ASKED
    groups = {name: getattr(command, "commands", {}) for name, command in get_group(app).commands.items()}
    below = {tuple(asked.split()[:2]) for asked in ASKED}
    assert {(name, each) for name, commands in groups.items() for each in commands} <= below


def is_told(outcome: Outcome) -> bool:
    """What is wrong, and what to do next."""
    assert not re.search("Traceback|should not have happened|hunter2", outcome.out + outcome.err), outcome
    assert outcome.code in (0, 1, 2), outcome
    return outcome.code == 0 or bool(NEXT.search(outcome.err))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("is_migrated", [False, True], ids=["new", "migrated"])
async def test_in_an_empty_database_each_command_says_what_to_do_next(
    asked: str, is_migrated: bool, environment: dict[str, str], files: dict[str, str]
) -> None:
    if is_migrated:
        assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here(*shlex.split(asked.format(**files)), environment=environment)
    assert is_told(outcome), outcome


@pytest.mark.parametrize(("asked", "server"), [(asked, each) for asked in ASKED for each in ASKED[asked].split()])
async def test_a_server_that_is_away_is_told_with_the_setting_that_names_it(
    asked: str, server: str, environment: dict[str, str], files: dict[str, str]
) -> None:
    setting, url = AWAY[server]
    if server != "database":
        assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here(*shlex.split(asked.format(**files)), environment={**environment, setting: url})
    assert is_told(outcome)
    assert outcome.code == 1
    assert f"Is it running, and is it the one that {setting} names? Then try again." in outcome.err


async def test_another_database_that_is_away_is_told_as_that(environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here("import", "backend", "--from", AWAY["database"][1], environment=environment)
    assert outcome.err.startswith("--from: mysql: ")
    assert "is it the one that --from names?" in outcome.err


async def test_an_empty_database_leads_to_a_first_recommendation_by_what_commands_say(
    environment: dict[str, str],
) -> None:
    asked = await run_here("first-recommendation", environment=environment)
    assert (asked.code, asked.out) == (1, "")
    assert "there is no catalogue yet: `python main.py demo-catalogue`" in asked.err
    refused = await run_here("demo-catalogue", "--songs", "20", "--members", "2", environment=environment)
    assert "run `python main.py migrate`" in refused.err
    for command in (("migrate",), ("demo-catalogue", "--songs", "20", "--members", "2")):
        assert (await run_here(*command, environment=environment)).code == 0
    nowhere = await run_here("first-recommendation", environment=environment)
    assert nowhere.code == 2
    assert "BROKER_URL is memory://" in nowhere.err


@pytest.mark.parametrize("command", ["embed", "retrieval", "check", "fit"])
async def test_a_table_that_is_missing_is_told_with_what_fills_it(command: str, environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here(command, environment=environment)
    assert outcome.code == 2
    assert "the database has no table 'song'" in outcome.err
    for told in ("DATABASE_URL", "CATALOGUE_PROFILE", "`ingest FILE`", "`demo-catalogue`"):
        assert told in outcome.err


@pytest.mark.parametrize("asked", ["migrate", "digest", "demo-catalogue", "fit --budget-s 0"])
@pytest.mark.parametrize("folder", ["none", "file"])
async def test_a_file_that_cannot_be_made_is_told_with_its_setting(asked: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    away = {"DATABASE_URL": f"sqlite:///{tmp_path / folder / 'songs.db'}", "LOG_LEVEL": "ERROR"}
    outcome = await run_here(*shlex.split(asked), environment=away)
    assert outcome.code == 1
    assert "sqlite: unable to open database file" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("DATABASE_URL names a file that cannot be used: is its folder there")


@pytest.mark.parametrize("asked", ["migrate --down", "clean-up", "simulate --remove"])
async def test_a_file_that_may_not_be_written_is_told_so(asked: str, environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    path = environment["DATABASE_URL"].removeprefix("sqlite:///")
    read_only = {**environment, "DATABASE_URL": f"sqlite:///file:{path}?mode=ro&uri=true"}
    outcome = await run_here(*shlex.split(asked), environment=read_only)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("DATABASE_URL names a file that cannot be used")


async def test_a_file_that_another_process_holds_is_told_so(environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    path = environment["DATABASE_URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outcome = await run_here("schedule", environment={**environment, "DEPENDENCY_TIMEOUT_S": "0.2"})
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("Another process writes to the file that DATABASE_URL names")


@pytest.mark.parametrize("asked", ["migrate", "schedule"])
async def test_a_file_that_is_no_database_is_told_so(asked: str, tmp_path: Path) -> None:
    (tmp_path / "songs.db").write_text("this is a letter, not a database\n" * 50, encoding="utf-8")
    outcome = await run_here(asked, environment={"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}"})
    assert outcome.code == 2
    assert outcome.err == ("sqlite: file is not a database: DATABASE_URL must name another, or one that is not there\n")


@pytest.mark.parametrize(
    "asked",
    [
        "simulate --members 20 --days 2 --items 20 --out {file}/data",
        "simulate --remove --json {none}/told.json",
        "rank --train {likes} --queries {asked} --out {none}/ranked.csv --budget-s 0",
        "evaluate {likes} --protocol known --budget-s 0 --json {none}/figures.json",
    ],
)
async def test_a_place_that_cannot_be_written_to_is_named(
    asked: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    pairs = [f"{user},{(user * 7 + step * (1 + user % 3)) % 40}" for user in range(60) for step in range(8)]
    (tmp_path / "likes.csv").write_text("\n".join(["user_id,item_id", *pairs]), encoding="utf-8")
    (tmp_path / "asked.csv").write_text("query_id,item_id\nq,1\nq,2\n", encoding="utf-8")
    names = {"file": "file", "none": "none", "likes": "likes.csv", "asked": "asked.csv"}
    places = {name: str(tmp_path / place) for name, place in names.items()}
    assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here(*shlex.split(asked.format(**places)), environment=environment)
    assert outcome.code in (1, 2)
    assert re.search(r"(No such file|Not a directory|there is no directory).*", outcome.err), outcome
    assert re.search(rf"{tmp_path}/(file|none)", outcome.err)
    assert "should not have happened" not in outcome.err


async def test_another_database_is_not_made_where_there_is_none(environment: dict[str, str], tmp_path: Path) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    other = f"sqlite:///{tmp_path / 'none.db'}"
    outcome = await run_here("import", "backend", "--from", other, environment=environment)
    assert outcome.code == 2
    assert f"--from: there is no file '{tmp_path / 'none.db'}'" in outcome.err
    assert not (tmp_path / "none.db").exists()


async def test_a_broker_that_is_away_is_told_once(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await run_here("dead-letters", "list", environment={**environment, "BROKER_URL": AWAY["broker"][1]})
    assert outcome.err.startswith("broker: ")
    assert not [each for each in caplog.records if each.name.startswith("aiormq")]


async def test_tries_that_a_command_ends_with_a_sentence_on_are_no_log_lines() -> None:
    broker = AmqpBroker(AWAY["broker"][1], build_topology("away", (5,)))
    with capture_logs() as logs:
        with pytest.raises(DependencyUnavailable, match=r"no connection within 0\.1 s: .*refused"):
            await start(broker)
        with pytest.raises(DependencyUnavailable):
            await broker.start(within_s=0.1)
    # A worker tells of them: it has no such end.
    assert {each["event"] for each in logs} == {LogEvent.BROKER_DISCONNECTED}
    assert len(logs) == 1


@pytest.mark.parametrize("setting", ["BROKER_URL", "DATABASE_URL", "REDIS_URL"])
async def test_an_example_of_an_address_is_told_as_it_is_written(setting: str, environment: dict[str, str]) -> None:
    outcome = await run_here("digest", environment={**environment, setting: "ftp://x"})
    shown = outcome.out + outcome.err
    assert setting in shown
    assert "***" not in shown


async def test_a_command_that_needs_a_broker_shows_how_one_is_named(environment: dict[str, str]) -> None:
    assert "(amqp://USER@HOST:5672/VHOST)" in (await run_here("publish", "--member", "7", environment=environment)).err


async def test_the_class_of_an_error_is_for_who_asks_for_it(environment: dict[str, str]) -> None:
    plain = await run_here("dead-letters", "list", environment=environment)
    detailed = await run_here("--debug", "dead-letters", "list", environment=environment)
    assert plain.err.startswith("BROKER_URL is memory://")
    assert detailed.err.splitlines()[-1] == f"ConfigurationError: {plain.err.rstrip()}"
