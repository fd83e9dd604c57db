"""The command line as a person uses it; no server runs."""

import io
import json
import os
import pty
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console
from typer.main import get_group

from commands.command_group import LoadedCommands
from commands.listing import LISTED, PANELS, PROGRAM
from commands.screen import progress_bar, telling
from commands.usage.later import later
from commands.usage.models import KINDS
from core.catalogue_statistics import STATISTICS_KIND
from core.fitted_collaborative import MODEL_KIND
from main import app
from tests.support.command import Outcome, completed, keys_told, run_command, run_here
from tests.support.worker_process import ROOT

HEADER = (
    "track_name,artist_name,genre,danceability,energy,loudness,speechiness,acousticness,instrumentalness,liveness,"
    "valence,tempo,duration_ms,popularity,track_id"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}", "LOG_LEVEL": "ERROR"}


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    path = tmp_path / "tracks.csv"
    rows = [
        f"Song {i},Artist {i % 9},{'pop' if i % 2 else 'rock'},0.5,0.6,-7,0.05,0.2,0,0.1,0.4,120,200000,{i},t{i:03}"
        for i in range(100)
    ]
    path.write_text("\n".join([HEADER, *rows, "Bad song,Nobody,pop,loud,,,,,,,,,,,t999"]), encoding="utf-8")
    return path


async def test_help_lists_every_command() -> None:
    outcome = await run_command("--help", environment={}, afresh=True)
    assert outcome.code == 0
    for name in ("demo", "worker", "api", "publish", "result", "refresh", "migrate", "ingest", "embed", "fit"):
        assert re.search(rf"^\W*{name}\s", outcome.out, re.MULTILINE)


def imported_by(*modules: str) -> set[str]:
    told = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", told], cwd=ROOT, text=True).split())


def test_help_waits_for_no_library_that_only_commands_need() -> None:
    imported = imported_by("main", "typer.rich_utils")
    assert {"typer", "rich"} <= imported
    assert imported.isdisjoint({"sqlalchemy", "pydantic", "numpy", "redis", "aio_pika", "structlog"})


MODULES = {each.place.partition(":")[0] for each in LISTED.values()}


def test_the_help_of_a_command_waits_for_no_library_that_it_works_with() -> None:
    imported = imported_by("main", "typer.rich_utils", *(f"commands.usage.{module}" for module in MODULES))
    assert "typer" in imported
    heavy = {
        "sqlalchemy",
        "pydantic_settings",
        "numpy",
        "redis",
        "aio_pika",
        "structlog",
        "uvloop",
        "workers",
        "services",
    }
    assert heavy.isdisjoint(imported)


def test_no_command_waits_for_the_import_of_what_only_some_need() -> None:
    serving = {"dashboard", "serve"}  # HTTP
    imported = imported_by("main", *(f"commands.{module}" for module in MODULES - serving))
    assert "sqlalchemy" in imported
    seldom_needed = {"alembic", "fakeredis", "fastapi", "langchain_core", "openai", "pyarrow", "scipy", "spotipy"}
    assert seldom_needed.isdisjoint(imported)


async def test_the_demonstration_shows_likes_beside_recommendations_and_what_was_counted(tmp_path: Path) -> None:
    outcome = await run_command("demo", "--members", "6", "--shown", "2", environment={})
    assert (outcome.code, outcome.err) == (0, "")
    assert "6 jobs ended" in outcome.out
    assert re.search(r"member 1 likes.*recommended \(offline\)", outcome.out)
    assert "member 2 likes" in outcome.out
    assert 'songs_ai_recommendations_total{outcome="succeeded",source="manual"} 6.0' in outcome.out
    assert "Where to go next" in outcome.out


async def test_the_demonstration_runs_on_a_real_file_too(tracks: Path) -> None:
    outcome = await run_command("demo", "--tracks", str(tracks), "--members", "3", "--locale", "ko", environment={})
    assert outcome.code == 0
    assert "101 rows: 100 songs new" in outcome.out
    assert "Song " in outcome.out
    assert "line 102" in outcome.err


async def test_from_nothing_to_vectors_and_a_second_time_nothing_changes(
    environment: dict[str, str], tracks: Path
) -> None:
    assert (await run_command("migrate", environment=environment)).code == 0
    first = await run_command("ingest", str(tracks), environment=environment)
    assert "100 songs new, 0 changed" in first.out
    assert "line 102" in first.err
    assert "100 embedded" in (await run_command("embed", environment=environment)).out
    again = await run_command("ingest", str(tracks), environment=environment)
    assert "0 songs new, 0 changed, 100 as they were" in again.out
    assert "0 embedded, 100 as they were" in (await run_command("embed", environment=environment)).out


async def test_a_step_back_over_data_wants_to_be_told_twice(environment: dict[str, str], tracks: Path) -> None:
    for command in (("migrate",), ("ingest", str(tracks)), ("migrate", "--down")):  # the newest step holds nothing yet
        assert (await run_command(*command, environment=environment)).code == 0
    refused = await run_command("migrate", "--down", "--revision", "base", environment=environment)
    assert refused.code == 2
    assert refused.err.count("songs_ai_item_source (100 rows)") == 1
    assert "--lose-data" in refused.err
    back = ("migrate", "--down", "--revision", "base", "--lose-data")
    assert (await run_command(*back, environment=environment)).code == 0


@pytest.mark.parametrize(("content", "state"), [("", "is empty; it must have"), ("a,b\n1,2\n", "has not")])
async def test_a_file_of_no_layout_is_one_sentence_and_no_progress(
    content: str, state: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "wrong.csv").write_text(content, encoding="utf-8")
    outcome = await run_command("ingest", str(tmp_path / "wrong.csv"), environment=environment)
    assert (outcome.code, outcome.out.strip()) == (2, "")
    assert " ".join(outcome.err.split()).startswith(f"wrong.csv {state} the columns track_id, ")


async def test_a_step_taken_too_early_says_which_comes_first(environment: dict[str, str]) -> None:
    outcome = await run_command("embed", environment=environment)
    assert outcome.code == 2
    assert not re.search("Traceback|Error", outcome.err)
    assert "`python main.py migrate`" in outcome.err


async def test_a_bad_setting_is_named_without_its_value(environment: dict[str, str]) -> None:
    outcome = await run_command("migrate", environment={**environment, "CONCURRENCY": "sk-mistaken"})
    assert outcome.code == 2
    assert outcome.err.startswith("CONCURRENCY: ")
    assert "sk-" not in outcome.err


async def test_a_server_that_is_not_there_is_one_sentence(environment: dict[str, str]) -> None:
    away = {**environment, "REDIS_URL": "redis://:hidden@127.0.0.1:1/0", "BROKER_URL": "memory://"}
    outcome = await run_command("result", "no-such-job", environment=away)
    assert outcome.code == 1
    assert outcome.err.startswith("redis: ")
    assert not re.search("Traceback|hidden", outcome.err)


async def test_a_job_that_nobody_knows_is_said_to_be_unknown(environment: dict[str, str]) -> None:
    outcome = await run_command("result", "no-such-job", environment=environment)
    assert outcome.code == 1
    assert outcome.err.startswith("job no-such-job is unknown; REDIS_URL is memory://, where no other process sees ")


async def test_where_others_can_see_it_a_worker_is_asked_after(environment: dict[str, str], redis_url: str) -> None:
    outcome = await run_here("result", "no-such-job", environment={**environment, "REDIS_URL": redis_url})
    assert (outcome.code, outcome.err.strip()) == (1, "job no-such-job is unknown; is a worker running?")


@pytest.mark.parametrize("favorites", ["1,x", "one"])
async def test_song_ids_that_are_no_integers_are_refused(favorites: str, environment: dict[str, str]) -> None:
    outcome = await run_command("publish", "--member", "7", "--favorites", favorites, environment=environment)
    assert outcome.code == 2
    assert "must be integers" in outcome.err


async def test_one_command_says_where_candidates_are_searched_for(environment: dict[str, str], tracks: Path) -> None:
    for command in (("migrate",), ("ingest", str(tracks)), ("embed",)):
        assert (await run_command(*command, environment=environment)).code == 0
    outcome = await run_command("retrieval", environment=environment)
    assert outcome.code == 0
    assert re.search(r"^RETRIEVAL=memory: exact, since .*\n100 items of \S+, recall@200 .* 1\.000\n$", outcome.out)


async def test_a_database_that_cannot_be_searched_is_refused_by_name(environment: dict[str, str]) -> None:
    for command in ("retrieval", "worker"):
        outcome = await run_command(command, environment={**environment, "RETRIEVAL": "database"})
        assert outcome.code == 2
        assert "RETRIEVAL=database: searching needs MySQL or MariaDB, and DATABASE_URL names SQLite" in outcome.err


def newest_revision() -> str:
    return max(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))


async def test_a_machine_is_told_where_a_migration_went(environment: dict[str, str]) -> None:
    newest = newest_revision()
    for asked, before, after in (
        (("--revision", "0008"), None, "0008"),
        ((), "0008", newest),
        ((), newest, newest),
        (("--down", "--revision", "base"), newest, None),
    ):
        told = await machine_told(environment, "migrate", *asked, "--json")
        assert told == {"before": before, "after": after}


# --- what is in the memory of other processes ---


async def test_what_a_member_left_in_the_memory_of_others_is_not_said_to_be_gone(environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    found = await machine_told(environment, "forget", "--member", "7", "--json", code=1)
    assert found["unseen"] == ["redis", "broker"]
    assert found["removed"].keys() == found["left"].keys() == {"events", "questions of batches"}
    told = await run_here("forget", "--member", "7", environment=environment)
    assert told.code == 1
    assert not re.search("cached results|jobs", told.out)
    for setting in ("REDIS_URL", "BROKER_URL"):
        assert f"{setting} is memory://, where what other processes keep is not seen" in told.err
    assert (await run_here("forget", "--member", "7", "--look", environment=environment)).code == 0


async def test_what_is_in_the_memory_of_others_is_no_zero_of_a_digest(environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    found = await machine_told(environment, "digest", "--json")
    assert (found["unseen"], found["troubles"]) == (["redis", "broker"], {})
    assert (found["waiting"], found["dead_letters"], found["spent_today"]) == (None, None, None)
    assert (await run_here("digest", environment=environment)).out.splitlines() == [
        "Redis: not seen, REDIS_URL is memory://",
        "RabbitMQ: not seen, BROKER_URL is memory://",
        "collaborative model: none",
    ]


@pytest.mark.parametrize("level", ["DEBUG", "own"])
async def test_a_level_that_no_worker_would_see_is_refused(level: str, environment: dict[str, str]) -> None:
    outcome = await run_here("log-level", level, environment=environment)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("REDIS_URL is memory://, where no worker sees what is said here: name the workers' ")


async def test_a_machine_is_told_of_the_level(environment: dict[str, str], redis_url: str) -> None:
    shared = {**environment, "REDIS_URL": redis_url}
    assert await machine_told(shared, "log-level", "own", "--json") == {"level": "own", "minutes": None}
    told = await machine_told(shared, "log-level", "debug", "--minutes", "5", "--json")
    assert told == {"level": "DEBUG", "minutes": 5}


# --- every command ---


def leaves() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that does something, under its words."""
    for name, command in get_group(app).commands.items():
        for below, leaf in getattr(command, "commands", {"": command}).items():
            yield (name, below) if below else (name,), leaf


COMMANDS = dict(leaves())
# They serve, show something to people, or say nothing.
FOR_PEOPLE = {"demo", "dashboard", "demo-catalogue", "first-recommendation", "worker", "api"}


def words_of(example: str) -> list[str]:
    return shlex.split(example.partition("|")[0].removeprefix(PROGRAM))


def test_the_overview_shows_each_command_in_its_panel_with_a_line_that_fits() -> None:
    shown = subprocess.check_output(
        [sys.executable, "main.py", "--help"], cwd=ROOT, text=True, env={**os.environ, "COLUMNS": "100"}
    )
    for panel, listed in PANELS.items():
        [lines] = re.findall(rf"─ {panel} ─+╮\n(.*?)╰", shown, re.DOTALL)
        told = dict(line.strip("│ ").split(maxsplit=1) for line in lines.splitlines())
        assert {name: line.rstrip() for name, line in told.items()} == {
            name: each.line for name, each in listed.items()
        }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_shows_examples_that_it_takes(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help
    heading, *examples = str(command.epilog).split("\n\n")
    assert heading == "Examples:"
    assert examples
    for example in examples:
        asked = [word for word in words_of(example) if word != "--debug"]
        assert tuple(asked[: len(words)]) == words
        with command.make_context(words[-1], asked[len(words) :], resilient_parsing=True) as context:
            assert not context.args


@pytest.mark.parametrize("name", [name for name in LISTED if hasattr(get_group(app).commands[name], "commands")])
def test_a_group_shows_examples_of_its_commands(name: str) -> None:
    _, *examples = str(get_group(app).commands[name].epilog).split("\n\n")
    assert examples
    assert {tuple(words_of(example)[:2]) for example in examples} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_that_reports_something_does_so_for_machines_and_its_page_says_how(
    words: tuple[str, ...],
) -> None:
    options = {option for parameter in COMMANDS[words].params for option in parameter.opts}
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    is_told = re.search(rf"^\|[^|]*`{' '.join(words)}`[^|]*\| .", page.partition("## For machines")[2], re.MULTILINE)
    assert ("--json" in options) == (" ".join(words) not in FOR_PEOPLE) == bool(is_told)


async def machine_told(environment: dict[str, str], *command: str, code: int = 0) -> Any:
    """Standard output, which is one document and nothing else."""
    outcome = await run_here(*command, environment=environment)
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


async def test_what_a_machine_is_told_has_the_keys_that_the_page_names(
    environment: dict[str, str], tracks: Path, tmp_path: Path
) -> None:
    migrated = await machine_told(environment, "migrate", "--json")
    assert migrated.keys() == keys_told("migrate")
    assert (migrated["before"], migrated["after"]) == (None, newest_revision())
    [ingested] = await machine_told(environment, "ingest", str(tracks), "--json")
    assert ingested.keys() == keys_told("ingest") - {"items", "likes"}
    assert (ingested["n_new"], ingested["n_left_out"], len(ingested["problems"])) == (100, 1, 1)
    embedded = await machine_told(environment, "embed", "--json")
    assert embedded.keys() == keys_told("embed")
    assert (embedded["n_items"], embedded["n_embedded"]) == (100, 100)
    for command in ("retrieval", "digest", "clean-up", "check"):
        assert (await machine_told(environment, command, "--json")).keys() == keys_told(command), command
    simulated = await machine_told(environment, "simulate", "--members", "70", "--days", "3", "--json", "-")
    assert simulated.keys() == keys_told("simulate")
    removed = await machine_told(environment, "simulate", "--remove", "--json", "-")
    assert removed == {"n_removed": simulated["n_events"]}
    planned = await machine_told(environment, "schedule", "--json")
    assert planned[0].keys() == keys_told("schedule")
    forgotten = await machine_told(environment, "forget", "--member", "7", "--json", code=1)
    assert forgotten.keys() == keys_told("forget") - {"--look"}
    assert (forgotten["member"], set(forgotten["left"].values())) == (7, {0})
    unknown = await machine_told(environment, "result", "no-such-job", "--json", code=1)
    assert unknown == {"job_id": "no-such-job", "status": "unknown"}


async def test_what_files_come_to_has_the_keys_that_the_page_names(tmp_path: Path) -> None:
    pairs = [f"{user},{(user * 7 + step * (1 + user % 3)) % 40}" for user in range(60) for step in range(8)]
    (tmp_path / "likes.csv").write_text("\n".join(["user_id,item_id", *pairs]), encoding="utf-8")
    (tmp_path / "asked.csv").write_text("query_id,item_id\nq,1\nq,2\n", encoding="utf-8")
    likes, asked, out = (str(tmp_path / name) for name in ("likes.csv", "asked.csv", "ranked.csv"))
    ranking = ("rank", "--train", likes, "--queries", asked, "--out", out, "--budget-s", "0", "--json")
    ranked = await machine_told({}, *ranking)
    assert ranked.keys() == keys_told("rank")
    assert (ranked["out"], ranked["n_queries"]) == (out, 1)
    evaluated = await machine_told({}, "evaluate", likes, "--protocol", "known", "--budget-s", "0", "--json", "-")
    assert evaluated.keys() == keys_told("evaluate")
    assert not (ROOT / "-").exists()


# --- what a command's help imports, and what it does ---


def test_a_module_that_comes_later_is_the_module_once_something_of_it_is_asked_for() -> None:
    told = """
from commands.usage.later import later
found = later("commands.completion")
print(type(found).__name__)
print(found.one_of("a", "b")("a"), type(found).__name__, later("commands.completion") is found)
"""
    shown = subprocess.check_output([sys.executable, "-c", told], cwd=ROOT, text=True)
    assert shown.splitlines() == ["_LazyModule", "['a'] module True"]
    with pytest.raises(ModuleNotFoundError, match=r"commands\.nothing"):
        later("commands.nothing")


def test_kinds_of_models_are_called_as_they_are_kept() -> None:
    assert KINDS == (MODEL_KIND, STATISTICS_KIND)


# --- what goes wrong ---


async def broken(*command: str) -> Outcome:
    with patch("commands.catalogue.open_parts", side_effect=RuntimeError("a bug with redis://:hunter2@host")):
        return await run_here(*command, environment={})


async def test_a_bug_is_a_sentence_and_how_to_see_more(environment: dict[str, str]) -> None:
    outcome = await broken("embed")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines() == [
        "RuntimeError: a bug with redis://:***@host",
        "This should not have happened: `python main.py --debug embed ...` shows where it did.",
    ]


async def test_its_traceback_is_shown_to_who_asks_without_secrets() -> None:
    outcome = await broken("--debug", "embed")
    assert outcome.code == 1
    assert outcome.err.startswith("Traceback (most recent call last):\n")
    assert "commands/catalogue.py" in outcome.err
    assert "hunter2" not in outcome.err
    assert outcome.err.splitlines()[-1] == "RuntimeError: a bug with redis://:***@host"


async def test_what_is_expected_to_go_wrong_has_a_traceback_for_who_asks_too(environment: dict[str, str]) -> None:
    outcome = await run_here("--debug", "embed", environment=environment)
    assert outcome.err.startswith("Traceback ")
    assert "should not have happened" not in outcome.err


async def test_ctrl_c_while_a_command_is_still_being_imported_is_told_too() -> None:
    with patch.object(LoadedCommands, "__getitem__", side_effect=KeyboardInterrupt):
        outcome = await run_here("digest", environment={})
    assert (outcome.code, outcome.err) == (130, "Interrupted. Nothing was begun.\n")


@pytest.mark.parametrize(
    ("typed", "meant"), [(("emebd",), "embed"), (("dead-leters",), "dead-letters"), (("models", "prommote"), "promote")]
)
async def test_a_slip_of_the_finger_is_answered_with_what_was_meant(typed: tuple[str, ...], meant: str) -> None:
    outcome = await run_here(*typed, environment={})
    assert outcome.code == 2
    assert f"Did you mean '{meant}'?" in outcome.err


# --- on a terminal ---


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    """What standard error shows where it is a terminal."""
    shown = io.StringIO()
    with patch("commands.screen.complaints", Console(file=shown, force_terminal=True, width=140, color_system=None)):
        yield shown


@pytest.fixture
def clock_of_bars(terminal: io.StringIO) -> Iterator[list[float]]:
    """The time by which bars of ``terminal`` reckon, in s."""
    clock = [1000.0]
    with patch("commands.screen.complaints.get_time", lambda: clock[0]):
        yield clock


async def test_a_long_step_shows_how_much_is_done_of_how_much_how_fast_and_for_how_long_yet(
    terminal: io.StringIO, environment: dict[str, str], tracks: Path
) -> None:
    for command, what in (("migrate",), ""), (("ingest", str(tracks)), "songs"), (("embed",), "embeddings"):
        outcome = await run_here(*command, environment=environment)
        assert outcome.code == 0
        if what:
            shown = re.findall(rf"{what}\s+━+\s+100/100\s+(?:[\d,]+/s)?\s+0:00:\d\d\s+[\d:-]+", terminal.getvalue())
            assert shown, terminal.getvalue()
            assert "━" not in outcome.out


def has_bar(terminal: io.StringIO, what: str, n: int) -> bool:
    """One that came to its end."""
    return bool(re.search(rf"{what}\s+━+\s+{n}/{n}\s+(?:[\d,.]+/s)?\s+0:00:\d\d\s+[\d:-]+", terminal.getvalue()))


async def test_what_is_made_up_is_counted_as_it_is_written(terminal: io.StringIO, environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    outcome = await run_here("demo-catalogue", "--songs", "60", "--members", "70", environment=environment)
    assert outcome.code == 0
    for what, n in {"songs": 60, "songs read": 60, "listeners": 70, "embeddings": 60}.items():
        assert has_bar(terminal, what, n), what
    assert "saving what they like" in terminal.getvalue()
    assert "━" not in outcome.out


async def test_a_demonstration_shows_how_far_it_is_with_what_it_makes_up(terminal: io.StringIO) -> None:
    assert (await run_here("demo", "--members", "3", "--shown", "0", environment={})).code == 0
    for what, n in {"songs": "2,000", "listeners": "3", "embeddings": "2,000"}.items():
        assert re.search(rf"{what}\s+━+\s+{n}/{n}", terminal.getvalue()), what


async def test_a_migration_says_which_revision_of_how_many(terminal: io.StringIO, environment: dict[str, str]) -> None:
    newest = newest_revision()
    assert (await run_here("migrate", environment=environment)).code == 0
    assert has_bar(terminal, f"revision {newest}", int(newest))
    terminal.truncate(0)
    assert (await run_here("migrate", environment=environment)).code == 0
    assert "revision" not in terminal.getvalue()
    assert (await run_here("migrate", "--down", "--revision", "0008", environment=environment)).code == 0
    assert has_bar(terminal, "revision 0009", int(newest) - 8)
    assert (await run_here("migrate", "--down", environment=environment)).code == 0
    assert has_bar(terminal, "revision 0008", 1)


async def test_old_events_are_counted_as_they_are_deleted(terminal: io.StringIO, environment: dict[str, str]) -> None:
    assert (await run_here("migrate", environment=environment)).code == 0
    old, row = (
        datetime(2020, 1, 1, tzinfo=UTC),
        "INSERT INTO songs_ai_interaction (event_id, member_id, type, occurred_at)",
    )
    with closing(sqlite3.connect(environment["DATABASE_URL"].removeprefix("sqlite:///"))) as database, database:
        database.executemany(f"{row} VALUES (?, 7, 'play', ?)", [(f"e{n}", old.isoformat(" ")[:26]) for n in range(30)])
    outcome = await run_here("clean-up", environment=environment)
    assert "30 events deleted" in outcome.out
    assert has_bar(terminal, "events", 30)


def test_a_bar_shows_the_rate_and_the_time_left(terminal: io.StringIO) -> None:
    with progress_bar() as progress:
        clock = iter(range(0, 1000, 2))
        progress.get_time = lambda: float(next(clock))
        task = progress.add_task("songs", total=3000)
        for _ in range(5):
            progress.advance(task, 100)
        progress.refresh()
    assert re.search(r"500/3,000\s+\d+/s\s+0:00:\d\d\s+0:0[01]:\d\d", terminal.getvalue())


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["ranking for query {} of 400"], r"ranking for query 200 of 400 ━+[^\n]* 5\d/s 0:00:0\d 0:00:0\d"),
        # a rate of seconds says nothing
        (
            ["choosing parameters, {} of 400 s: a"],
            r"choosing parameters, 200 of 400 s ━+[^\n]*(━|╸) +0:00:0\d 0:00:0\d",
        ),
        (["lists by kNN: {} of 400 listeners"], r"lists by kNN ━+[^\n]* 5\d/s 0:00:0\d 0:00:0\d"),
        (["reading {} of 400", "fitting"], r"fitting [^\n]* 0:00:00 -:--:--"),
    ],
)
def test_a_step_that_counts_moves_a_bar_with_its_rate_and_the_time_left(
    terminal: io.StringIO, clock_of_bars: list[float], lines: list[str], shown: str
) -> None:
    with telling() as tell:
        for done in (0, 100, 200):
            clock_of_bars[0] += 2
            tell(lines[0].format(done))
        for line in lines[1:]:
            tell(line)
    assert f"{lines[0].format(100)}\n" in terminal.getvalue()
    assert re.search(shown, terminal.getvalue())


def test_off_a_terminal_there_is_no_bar() -> None:
    assert progress_bar().disable


def on_a_terminal(*asked: str, **environment: str) -> str:
    """What ``main.py`` writes to one; nothing ``asked``: where a command is not known."""
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environment}
    command = [sys.executable, "main.py", *(asked or ("emebd",))]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    # EIO: nobody has the terminal open any more.
    with suppress(OSError):
        while read := os.read(ours, 65536):
            shown += read
    process.wait()
    os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals_that_nobody_asked_to_go_without() -> None:
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9)\d")
    assert colour.search(on_a_terminal())
    assert not colour.search(on_a_terminal(NO_COLOR="1"))
    piped = subprocess.run([sys.executable, "main.py", "emebd"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Did you mean 'embed'?" in piped.stderr
    assert "\x1b" not in piped.stderr


BEGINNING_OF_A_LINE = re.compile(r"\r\n|\r\x1b\[2K")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def test_a_log_line_and_a_bar_are_never_one_line(environment: dict[str, str]) -> None:
    settings = {**environment, "LOG_LEVEL": "INFO", "COLUMNS": "100"}
    for *asked, event in (
        ("migrate", "migrations_applied"),
        ("demo-catalogue", "--songs", "60", "--members", "3", "items_embedded"),
        ("retrieval", "index_loaded"),
        ("migrate", "--down", "migrations_applied"),
    ):
        lines = BEGINNING_OF_A_LINE.split(COLOUR.sub("", on_a_terminal(*asked, **settings)))
        logged, bars = ({line for line in lines if re.search(sign, line)} for sign in (r"\[info ", "━|[⠀-⣿]"))
        assert bars, asked
        assert any(re.match(rf"[\d:.]+ \[info +\] {event}\b", line) for line in logged), lines
        assert not logged & bars


def test_log_lines_are_for_programs_where_colours_are_forced_upon_a_pipe(environment: dict[str, str]) -> None:
    env = {**os.environ, **environment, "FORCE_COLOR": "1", "LOG_LEVEL": "INFO"}
    command = [sys.executable, "main.py", "migrate"]
    piped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    [line] = [line for line in piped.stderr.splitlines() if "migrations_applied" in line]
    assert json.loads(line[line.index("{") :])["after"] == newest_revision()


# --- completion ---


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("main.py dead", ["dead-letters"]),
        ("main.py dead-letters re", ["replay"]),
        ("main.py embed --r", ["--refit"]),
        ("main.py models list --kind e", ["embedder"]),
    ],
)
async def test_a_shell_completes_commands_options_and_values(typed: str, offered: list[str]) -> None:
    assert await completed(typed, environment={}) == offered


async def test_where_the_site_cannot_be_asked_for_versions_none_is_offered(environment: dict[str, str]) -> None:
    assert await completed("main.py models promote a", environment=environment) == []  # not migrated
    assert await completed("main.py models promote a", environment={"CONCURRENCY": "many"}) == []


# What a shell answers to TAB where the line says `main.py dead`, by the script that it is given.
ASKING = {
    "bash": """
        eval "$(env _MAIN.PY_COMPLETE=source_bash main.py)"
        COMP_WORDS=(main.py dead) COMP_CWORD=1
        "$(complete -p main.py | sed 's/.*-F \\([^ ]*\\).*/\\1/')" main.py
        echo "${COMPREPLY[@]}"
        """,
    "zsh": """
        compdef() { completing=$1 }
        _arguments() { print -r -- "$@" }
        eval "$(env _MAIN.PY_COMPLETE=source_zsh main.py)"
        words=(main.py dead) CURRENT=2
        $completing
        """,
    "fish": """
        env _MAIN.PY_COMPLETE=source_fish main.py | source
        complete --do-complete 'main.py dead'
        """,
}


@pytest.mark.parametrize("shell", ASKING)
def test_a_shell_completes_by_the_script_that_it_is_given(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = f"{Path(sys.executable).parent}:{ROOT}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    told = subprocess.check_output([shell, "-c", ASKING[shell]], text=True, env=env)
    assert "dead-letters" in told
    assert "demo" not in told
