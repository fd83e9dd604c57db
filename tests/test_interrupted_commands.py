"""Ctrl-C in the midst of each long step of building a site, by real signals, and then the same command again."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from commands.listing import LISTED
from tests.support.command import Outcome, keys_told, run_command
from tests.support.program_forks import fork_program
from tests.support.stop_points import REACHED
from tests.test_backend_import import N_SONGS as N_COPIED
from tests.test_backend_import import fill as fill_backend

N_SONGS = 1200  # more than one batch
PATIENCE_S = 60.0
INTERRUPTED = 130


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}", "LOG_LEVEL": "ERROR", "EMBEDDING_DIM": "64"}


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    header = (
        "track_name,artist_name,genre,danceability,energy,loudness,speechiness,acousticness,instrumentalness,liveness,"
        "valence,tempo,duration_ms,popularity,track_id"
    )
    rows = [
        f"Song {i},Artist {i % 90},{'pop' if i % 2 else 'rock'},0.{i % 9},0.6,-7,0.05,0.2,0,0.1,0.4,120,200000,9,t{i}"
        for i in range(N_SONGS)
    ]
    path = tmp_path / "tracks.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


async def interrupted(environment: dict[str, str], place: str, number: int, *command: str) -> Outcome:
    """The command, interrupted before that call."""
    program = await fork_program(command, {"COLUMNS": "160", **environment}, stop_at=(place, number))
    async with asyncio.timeout(PATIENCE_S):
        told = ""
        while not told.endswith(REACHED):
            line = (await program.stderr.readline()).decode()
            assert line, told  # it has ended before it came there
            told += line
        program.send_signal(signal.SIGINT)
        out, err = await program.communicate()
    return Outcome(program.returncode or 0, out.decode(), err.decode())


def is_told(outcome: Outcome, command: str) -> bool:
    """One sentence on what is kept and how to go on, and no traceback."""
    said = " ".join(outcome.err.split())
    return outcome.code == INTERRUPTED and said == f"Interrupted. {LISTED[command].interrupted}"


async def test_a_site_is_built_though_every_step_is_interrupted(environment: dict[str, str], tracks: Path) -> None:
    async def done(*command: str) -> str:
        outcome = await run_command(*command, environment=environment)
        assert outcome.code == 0, outcome.err
        return outcome.out

    await done("migrate")

    outcome = await interrupted(environment, "services.ingest_store:SqlIngestStore.save", 2, "ingest", str(tracks))
    assert is_told(outcome, "ingest")
    assert "200 songs new, 0 changed, 1000 as they were" in await done("ingest", str(tracks))

    outcome = await interrupted(environment, "services.embedding_store:SqlEmbeddingStore.save", 2, "embed")
    assert is_told(outcome, "embed")
    assert "1200 items: 200 embedded, 1000 as they were" in await done("embed")

    simulation = ("simulate", "--members", "130", "--days", "20")
    outcome = await interrupted(environment, "services.simulated_events:SqlSimulatedEvents.add", 3, *simulation)
    assert is_told(outcome, "simulate")
    assert "64 members before" in await done(*simulation)

    outcome = await interrupted(environment, "training.fit:fit_on", 1, "fit", "--budget-s", "0")
    assert is_told_last(outcome, "fit")
    # The lease is given back: the next fit does not wait for it to expire.
    fitted = json.loads(await done("fit", "--budget-s", "0", "--json"))
    assert fitted.keys() == keys_told("fit")
    assert (fitted["in_force"], fitted["reason"]) == (True, "no version was in force")


def is_told_last(outcome: Outcome, command: str) -> bool:
    """As above, after lines on what was done until then."""
    last = outcome.err.splitlines()[-1]
    return (outcome.code, last) == (INTERRUPTED, f"Interrupted. {LISTED[command].interrupted}")


@pytest.mark.parametrize(("n_saved", "n_left"), [(0, 1200), (1, 200)])
async def test_a_catalogue_is_made_up_though_it_is_interrupted(
    n_saved: int, n_left: int, environment: dict[str, str]
) -> None:
    command = ("demo-catalogue", "--songs", str(N_SONGS), "--members", "3")
    assert (await run_command("migrate", environment=environment)).code == 0
    outcome = await interrupted(environment, "services.ingest_store:SqlIngestStore.save", n_saved + 1, *command)
    assert is_told(outcome, "demo-catalogue")
    early = await run_command("first-recommendation", environment=environment)
    assert (early.code, early.out) == (1, "")
    assert early.err.startswith("the catalogue is half made up: `python main.py demo-catalogue` goes on ")
    again = await run_command(*command, environment=environment)
    assert again.code == 0, again.err
    assert f"made up {n_left} songs" in again.out
    assert "3 listeners" in again.out
    assert f"{N_SONGS} embedded" in again.out
    assert (await run_command(*command, environment=environment)).out.splitlines() == [
        "there is a catalogue of 1,200 already: nothing is made up",
        "1200 items: 0 embedded, 1200 as they were, 0 vectors deleted; 0 without content",
    ]


async def test_files_are_whole_or_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = ("simulate", "--out", str(out), "--members", "130", "--days", "5", "--items", "60")
    place = "training.simulator.files:positive_pairs"
    outcome = await interrupted(environment, place, 2, *command)
    assert is_told_last(outcome, "simulate")
    assert not (out / "interactions.csv").exists()
    assert [each.name for each in out.glob("*.part")] == []


@pytest.fixture
def likes(tmp_path: Path) -> Path:
    """Two crowds that share nothing."""
    path = tmp_path / "likes.csv"
    rows = [f"{user},{20 * (user % 2) + (7 * user + 3 * n) % 20}" for user in range(80) for n in range(8)]
    path.write_text("\n".join(["user_id,item_id", *rows]), encoding="utf-8")
    return path


async def test_a_ranking_that_is_interrupted_leaves_the_file_that_was_there(
    environment: dict[str, str], likes: Path, tmp_path: Path
) -> None:
    queries, out = tmp_path / "asked.csv", tmp_path / "ranked.csv"
    queries.write_text("query_id,item_id\nq,3\nr,23\n", encoding="utf-8")
    out.write_text("of yesterday", encoding="utf-8")
    command = ("rank", "--train", str(likes), "--queries", str(queries), "--out", str(out), "--budget-s", "0")
    outcome = await interrupted(environment, "training.rank:_ranked", 2, *command)
    assert is_told_last(outcome, "rank")
    assert out.read_text(encoding="utf-8") == "of yesterday"
    assert not out.with_name("ranked.csv.partial").exists()
    assert (await run_command(*command, environment=environment)).code == 0
    assert out.read_text(encoding="utf-8").startswith("query_id,rank,item_id,score\nq,1,")


async def test_an_evaluation_that_is_interrupted_writes_no_figures(
    environment: dict[str, str], likes: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    command = ("evaluate", str(likes), "--budget-s", "0", "--json", str(figures))
    outcome = await interrupted(environment, "training.evaluate:_in_parts", 3, *command)
    assert is_told_last(outcome, "evaluate")
    assert not figures.exists()


async def test_an_import_that_is_interrupted_goes_on_where_it_was(environment: dict[str, str], tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    fill_backend(other)
    assert (await run_command("migrate", environment=environment)).code == 0
    command = ("import", "backend", "--from", other)
    outcome = await interrupted(environment, "services.ingest_store:SqlIngestStore.save", 2, *command)
    assert is_told_last(outcome, "import")
    again = await run_command(*command, environment=environment)
    assert again.code == 0, again.err
    assert f"{N_COPIED - 1000} rows, going on from where it was: {N_COPIED - 1000} songs new" in again.out
