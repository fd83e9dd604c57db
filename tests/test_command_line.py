"""The command line as a person uses it, each command in a process of its own; no server runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands.listing import LISTED
from tests.support.command import run_command
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
    assert imported.isdisjoint(
        {"sqlalchemy", "pydantic", "numpy", "redis", "aio_pika", "structlog"}
    )


def test_no_command_waits_for_the_import_of_what_only_some_need() -> None:
    modules = {each.place.partition(":")[0] for each in LISTED.values()} - {"dashboard"}  # which serves HTTP as well
    imported = imported_by("main", *(f"commands.{module}" for module in modules))
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
    assert refused.code == 1
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
    assert (outcome.code, outcome.out.strip()) == (1, "")
    assert " ".join(outcome.err.split()).startswith(f"ConfigurationError: wrong.csv {state} the columns track_id, ")


async def test_a_step_taken_too_early_says_which_comes_first(environment: dict[str, str]) -> None:
    outcome = await run_command("embed", environment=environment)
    assert outcome.code == 1
    assert "ConfigurationError" in outcome.err
    assert "Traceback" not in outcome.err


async def test_a_bad_setting_is_named_without_its_value(environment: dict[str, str]) -> None:
    outcome = await run_command("migrate", environment={**environment, "CONCURRENCY": "sk-mistaken"})
    assert outcome.code == 2
    assert outcome.err.startswith("CONCURRENCY: ")
    assert "sk-" not in outcome.err


async def test_a_server_that_is_not_there_is_one_sentence(environment: dict[str, str]) -> None:
    away = {**environment, "REDIS_URL": "redis://:hidden@127.0.0.1:1/0", "BROKER_URL": "memory://"}
    outcome = await run_command("result", "no-such-job", environment=away)
    assert outcome.code == 1
    assert "DependencyUnavailable: redis" in outcome.err
    assert not re.search("Traceback|hidden", outcome.err)


async def test_a_job_that_nobody_knows_is_said_to_be_unknown(environment: dict[str, str]) -> None:
    outcome = await run_command("result", "no-such-job", environment=environment)
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
        assert outcome.code == 1
        assert "RETRIEVAL=database: searching needs MySQL or MariaDB, and DATABASE_URL names SQLite" in outcome.err
