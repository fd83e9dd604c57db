"""``check`` on files and on a site, and what ``fit`` makes of a failed check."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from core.data_figures import DataFigures
from core.fitted_collaborative import MODEL_KIND
from core.ports.model_store import ModelOrigin
from services import migrations
from services.database import Database, parse_url
from services.model_store import SqlModelStore
from services.orphan_count import SqlOrphanCount
from tests.support.catalogue import (
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    add_to_playlist,
    create_backend_tables,
    give_features,
    insert_songs,
    like,
    record_event,
)
from tests.support.command import Outcome, run_here
from tests.support.hand_clock import HandClock
from tests.support.notice_servers import hook_server
from training.data_checks import figures_of_file, ranges_of

KAGGLE = (
    "track_id,artists,album_name,track_name,popularity,duration_ms,explicit,danceability,energy,key,loudness,mode,"
    "speechiness,acousticness,instrumentalness,liveness,valence,tempo,time_signature,track_genre"
)


def kaggle_row(number: int, genre: str, *, energy: str = "", name: str = "Song") -> str:
    energy = energy or f"0.{number % 90 + 10}"
    return (
        f"t{number:05},Artist {number % 7},Album,{name} {number},50,200000,False,0.{number % 80 + 10},{energy},1,-7,1,"
        f"0.05,0.{number % 70 + 10},0,0.{number % 50 + 10},0.{number % 60 + 10},{90 + number % 60},4,{genre}"
    )


def kaggle_file(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join([KAGGLE, *rows]), encoding="utf-8")
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'songs.db'}"


@pytest_asyncio.fixture
async def database(url: str) -> AsyncIterator[Database]:
    migrations.upgrade(parse_url(url))
    database = Database(url, pool_size=2)
    yield database
    await database.close()


async def checked(url: str, *command: str, **environment: str) -> Outcome:
    return await run_here("check", *command, environment={"DATABASE_URL": url, **environment})


# --- files ---


def test_a_track_once_per_genre_is_neither_repeated_nor_conflicting(tmp_path: Path) -> None:
    rows = [kaggle_row(n, genre) for n in range(50) for genre in ("pop", "dance", "electro")]
    figures = figures_of_file(kaggle_file(tmp_path / "tracks.csv", rows), SONGS)
    assert (figures.n_rows, figures.n_items, figures.n_several) == (150, 50, 100)
    assert (figures.n_repeated, figures.n_conflicting, figures.n_lookalikes) == (0, 0, 0)
    assert figures.features["energy"].spread.n == 50


def test_rows_that_repeat_and_rows_that_contradict_are_told_apart(tmp_path: Path) -> None:
    rows = [kaggle_row(1, "pop"), kaggle_row(1, "pop"), kaggle_row(1, "rock", energy="0.99"), kaggle_row(2, "pop")]
    rows.append(kaggle_row(2, "pop", name="Another"))
    figures = figures_of_file(kaggle_file(tmp_path / "tracks.csv", rows), SONGS)
    assert (figures.n_items, figures.n_several, figures.n_repeated, figures.n_conflicting) == (2, 1, 2, 2)


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [kaggle_row(1, "pop"), *(kaggle_row(n, "pop", energy=f"{n}.5") for n in (2, 3, 4)), "a,b"]
    figures = figures_of_file(kaggle_file(tmp_path / "tracks.csv", rows), SONGS)
    assert figures.bad_rows == {"energy is not from 0 to 1": 3, "has 2 cells, the header has 20": 1}


def test_likes_are_checked_as_the_profile_lays_them_out(tmp_path: Path) -> None:
    from config.catalogue_profile import load_profile  # noqa: PLC0415 - of this test alone

    path = tmp_path / "likes.csv"
    path.write_text("user_id,game_id\n1,7\n1,7\n2,7\nx,7\n", encoding="utf-8")
    games = load_profile("games")
    figures = figures_of_file(path, games)
    assert (figures.n_rows, figures.n_repeated, sum(figures.bad_rows.values())) == (4, 1, 1)
    assert ranges_of(games)["rating"] == (0, 5)


async def test_a_good_file_passes_with_exit_code_0(url: str, database: Database, tmp_path: Path) -> None:
    path = kaggle_file(tmp_path / "tracks.csv", [kaggle_row(n, "pop") for n in range(100)])
    outcome = await checked(url, str(path))
    assert outcome.code == 0, outcome.out
    assert "100 rows of 100 items: 0 of another genre, 0 repeated, 0 conflicting" in outcome.out
    assert "0 failed; no figures of a last accepted version to compare with" in outcome.out
    # It says that instrumentalness, among others, is 0 for all.
    assert "warned" in outcome.out


async def test_a_bad_file_fails_with_exit_code_1_and_as_json(url: str, database: Database, tmp_path: Path) -> None:
    rows = [kaggle_row(n, "pop", energy="1.5" if n < 10 else "") for n in range(100)]
    path = kaggle_file(tmp_path / "tracks.csv", rows)
    outcome = await checked(url, str(path))
    assert outcome.code == 1
    assert "10 bad rows: energy is not from 0 to 1" in outcome.out
    document = json.loads((await checked(url, str(path), "--json")).out)
    assert document["passed"] is False
    assert [each["rule"] for each in document["findings"] if each["outcome"] == "failed"] == ["schema"]
    assert document["figures"]["bad_rows"] == {"energy is not from 0 to 1": 10}
    assert (await checked(url, str(path), CHECK_BAD_ROWS="0.2")).code == 0


async def test_a_file_without_its_columns_is_refused_in_a_sentence(
    url: str, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "tracks.csv"
    path.write_text("track_id,track_name\n1,Song\n", encoding="utf-8")
    outcome = await checked(url, str(path))
    assert outcome.code == 2
    assert "tracks.csv has not the column" in " ".join(outcome.err.split())


# --- sites ---


def a_site(url: str, *, energy: float = 0.5, n: int = 60) -> None:
    create_backend_tables(url)
    insert_songs(
        url, *({"song_id": k, "title_en": f"Song {k}", "artist": "A", "genre": "pop"} for k in range(1, n + 1))
    )
    for song_id in range(1, n + 1):
        give_features(url, song_id, features={"energy": min(energy + song_id / 200, 1), "tempo": 90 + song_id})
    for member_id in range(1, 21):
        like(url, member_id, *range(member_id, member_id + 8))


async def accepted(database: Database, figures: str) -> None:
    """A version in force whose data had these figures."""
    store = SqlModelStore(database, HandClock())
    await store.save(MODEL_KIND, "1", b"", {})
    await store.note_origin(MODEL_KIND, "1", ModelOrigin(data_figures=figures))
    await store.activate(MODEL_KIND, "1")


async def test_a_site_is_checked_against_the_data_of_the_version_in_force(url: str, database: Database) -> None:
    a_site(url)
    first = await checked(url, "--json")
    assert first.code == 0, first.out
    figures = json.dumps(json.loads(first.out)["figures"])
    await accepted(database, figures)
    again = json.loads((await checked(url, "--json")).out)
    drifts = {each["subject"]: each["figure"] for each in again["findings"] if each["rule"] == "drift"}
    assert again["compared_with_last_version"]
    assert drifts.keys() == {"energy", "tempo", "genres", "weights of interactions", "interactions of a member"}
    assert max(drifts.values()) == pytest.approx(0, abs=1e-9)


async def test_a_site_that_drifted_fails(url: str, database: Database) -> None:
    a_site(url, energy=0.7)
    figures = DataFigures.from_json(json.dumps(json.loads((await checked(url, "--json")).out)["figures"]))
    assert figures is not None
    spread = figures.features["energy"].spread
    document = json.loads(figures.to_json())
    document["features"]["energy"]["spread"]["edges"] = [edge - 0.5 for edge in spread.edges]
    await accepted(database, json.dumps(document))
    outcome = await checked(url)
    assert outcome.code == 1
    assert "drift" in outcome.out
    assert (await checked(url, CHECK_DRIFT_PSI="0")).code == 0


async def test_orphans_of_a_site_fail_and_people_are_told(url: str, database: Database) -> None:
    a_site(url)
    like(url, 99, *range(1000, 1100))
    async with hook_server() as hooks:
        outcome = await checked(url, "--json", NOTICE_SLACK=hooks.url)
    assert outcome.code == 1
    [body] = hooks.bodies
    assert body["text"].startswith("Songs AI, check failed: a check of the data failed: orphans, likes, lists and")
    [failed] = [each for each in json.loads(outcome.out)["findings"] if each["outcome"] == "failed"]
    assert failed["rule"] == "orphans"
    assert failed["figure"] == pytest.approx(100 / 260)


class OrphanTests(WithTables):
    async def test_rows_of_items_that_are_not_there_are_orphans(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "One"}, {"song_id": 2, "title_en": "Two", "is_active": False})
        like(url, 1, 1, 2, 3)
        add_to_playlist(url, 1, 1, 4)
        for place, song_id in enumerate((1, 5, 6, None)):
            record_event(url, str(place), 1, song_id, "play")
        assert await SqlOrphanCount(database, SONGS).count() == (8, 4)

    async def test_nothing_has_no_orphans(self, database: Database) -> None:
        assert await SqlOrphanCount(database, SONGS).count() == (0, 0)


class TestOrphansOnSqlite(OnSqlite, OrphanTests):
    pass


class TestOrphansOnMySql(OnMySql, OrphanTests):
    pass
