"""Imports from Spotify and RAWG, against servers of their shapes: what comes, what fails, and where it goes on."""

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr

from config.catalogue_profile import load_profile
from core.errors import ConfigurationError, DependencyUnavailable
from services.database import Database, open_database
from services.import_cursors import SqlImportCursors
from services.ingest_store import SqlIngestStore
from services.migrations import upgrade
from services.paced_calls import PacedCalls
from services.rawg import RawgSource, text_of
from services.schema import import_cursor
from services.spotify import Spotify
from services.spotify_tracks import SpotifySource
from tests.support.catalogue import connection
from tests.support.command import Outcome, run_here
from tests.support.hand_clock import HandClock
from tests.support.service_apis import CLIENT_SECRET, RAWG_KEY, RawgApi, SpotifyApi, game, served, track
from training.imports import SPOTIFY, Importing, ImportReport, import_items, layout_of

spotipy: Any = pytest.importorskip("spotipy")

SONGS, GAMES = load_profile("songs"), load_profile("games")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'site.db'}"
    upgrade(url)
    return url


@pytest_asyncio.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with open_database(url, pool_size=2, timeout_s=5.0) as database:
        yield database


@pytest_asyncio.fixture
async def spotify_api() -> AsyncIterator[SpotifyApi]:
    async with served(SpotifyApi(tracks=[track(number) for number in range(120)])) as api:
        yield api


@pytest_asyncio.fixture
async def rawg_api() -> AsyncIterator[RawgApi]:
    async with served(RawgApi(games=[game(number) for number in range(1, 101)])) as api:
        yield api


class Told(list[str]):
    """What the people who run it are told."""


def quick_calls(name: str, waits_s: list[float] | None = None) -> PacedCalls:
    clock = HandClock()

    async def sleep(seconds: float) -> None:
        clock.move(seconds)
        if waits_s is not None:
            waits_s.append(seconds)

    return PacedCalls(name, clock, per_s=100, sleep=sleep)


def spotify_client(
    api: SpotifyApi, told: Told, waits_s: list[float] | None = None, secret: str = CLIENT_SECRET
) -> Spotify:
    client = Spotify(SecretStr("an-application"), SecretStr(secret), quick_calls("Spotify", waits_s), told.append)
    client._client.prefix = f"{api.url}/v1/"
    client._client.auth_manager.OAUTH_TOKEN_URL = f"{api.url}/api/token"
    return client


async def import_playlist(
    api: SpotifyApi, database: Database, told: Told | None = None, *, limit: int | None = None, afresh: bool = False
) -> ImportReport:
    source = SpotifySource(spotify_client(api, Told() if told is None else told), playlist="aPlaylist")
    importing = Importing(source=source, cursors=SqlImportCursors(database), n_rows=limit, afresh=afresh)
    return await import_items(importing, SPOTIFY, SqlIngestStore(database, SONGS))


def songs(url: str) -> list[Mapping[str, Any]]:
    query = (
        "SELECT s.*, f.features, f.popularity FROM song s LEFT JOIN songs_ai_item_feature f ON f.item_id = s.song_id"
    )
    with connection(url) as opened:
        return [dict(row) for row in opened.exec_driver_sql(query).mappings()]


def cursors(url: str) -> list[str]:
    with connection(url) as opened:
        return list(opened.scalars(sa.select(import_cursor.c.next_page)))


# --- Spotify ---


async def test_a_playlist_becomes_songs(spotify_api: SpotifyApi, database: Database, url: str) -> None:
    told = Told()
    report = await import_playlist(spotify_api, database, told)
    assert (report.n_rows, report.n_inserted, report.n_left_out, told) == (120, 120, 0, [])
    first, second = songs(url)[:2]
    assert (second["title_en"], second["artist"], second["genre"]) == ("Song 1", "Artist 1", "k-pop, dance/ pop")
    assert second["mood"] == "happy"
    assert '"tempo": 120.5' in second["features"]
    assert second["popularity"] == pytest.approx(0.01)
    assert first["mood"] is None, "the first of each page has no audio features"
    assert cursors(url) == [], "nothing is left to go on with"


async def test_entries_of_the_older_shape_are_read_too(spotify_api: SpotifyApi, database: Database) -> None:
    spotify_api.entry_name = "track"
    spotify_api.tracks = [track(number, track=True) for number in range(3)]
    assert (await import_playlist(spotify_api, database)).n_inserted == 3


async def test_a_second_import_changes_nothing_and_a_changed_song_is_updated(
    spotify_api: SpotifyApi, database: Database
) -> None:
    await import_playlist(spotify_api, database)
    spotify_api.tracks[7]["popularity"] = 99
    again = await import_playlist(spotify_api, database)
    assert (again.n_inserted, again.n_updated, again.n_unchanged, again.went_on) == (0, 1, 119, False)


async def test_what_is_no_track_with_an_id_is_left_out(spotify_api: SpotifyApi, database: Database) -> None:
    local, gone, talk = track(1, id=None, is_local=True), None, track(2, type="episode")
    spotify_api.tracks = [track(0), local, gone, talk, track(3, name=" "), track(4)]
    report = await import_playlist(spotify_api, database)
    assert report.n_inserted == 2
    assert sorted(problem.partition(": ")[2] for problem in report.problems) == ["name is empty", "track_id is empty"]


async def test_features_that_are_refused_are_no_failure_and_told_once(
    spotify_api: SpotifyApi, database: Database, url: str
) -> None:
    spotify_api.fail("/v1/audio-features", 403)
    told = Told()
    report = await import_playlist(spotify_api, database, told)
    assert report.n_inserted == 120
    assert told == ["Spotify does not let this application read audio features: the import goes on without them"]
    assert spotify_api.count("/v1/audio-features") == 1
    assert all(song["mood"] is None and song["genre"] for song in songs(url))


async def test_genres_that_are_refused_are_no_failure_either(spotify_api: SpotifyApi, database: Database) -> None:
    spotify_api.fail("/v1/artists/", 403)
    told = Told()
    assert (await import_playlist(spotify_api, database, told)).n_inserted == 120
    assert (len(told), spotify_api.count("/v1/artists/")) == (1, 1)


async def test_a_search_is_read_page_by_page_up_to_a_limit(spotify_api: SpotifyApi, database: Database) -> None:
    source = SpotifySource(spotify_client(spotify_api, Told()), query="genre:k-pop")
    importing = Importing(source=source, cursors=SqlImportCursors(database), n_rows=25)
    report = await import_items(importing, SPOTIFY, SqlIngestStore(database, SONGS))
    assert (report.n_rows, report.n_inserted) == (25, 25)
    assert spotify_api.count("/v1/search") == 3
    rest = Importing(source=source, cursors=SqlImportCursors(database))
    report = await import_items(rest, SPOTIFY, SqlIngestStore(database, SONGS))
    assert (report.went_on, report.n_inserted, report.n_unchanged) == (True, 95, 5)


async def test_the_wait_that_spotify_asks_for_is_kept(spotify_api: SpotifyApi) -> None:
    waits_s: list[float] = []
    spotify_api.fail("/v1/playlists/aPlaylist/items", 429, Retry_After="7")
    source = SpotifySource(spotify_client(spotify_api, Told(), waits_s), playlist="aPlaylist")
    assert sum([len(page.rows) async for page in source.pages(None)]) == 120
    assert 7.0 in waits_s


@pytest.mark.parametrize(
    "path", ["/v1/playlists/aPlaylist", "/v1/playlists/aPlaylist/items", "/api/token", "/v1/artists/"]
)
async def test_what_fails_in_passing_is_asked_again(path: str, spotify_api: SpotifyApi, database: Database) -> None:
    spotify_api.fail(path, 500, 503)
    assert (await import_playlist(spotify_api, database)).n_inserted == 120


async def test_an_answer_that_is_cut_off_is_asked_for_again(spotify_api: SpotifyApi, database: Database) -> None:
    spotify_api.fail("/v1/playlists/aPlaylist/items", 200, body='{"items": [{"item": {"id": "tra')
    spotify_api.fail("/v1/audio-features", 200, body="[]")
    assert (await import_playlist(spotify_api, database)).n_inserted == 120


async def test_what_breaks_off_goes_on_where_it_was(spotify_api: SpotifyApi, database: Database, url: str) -> None:
    spotify_api.broken_from["/v1/playlists/aPlaylist/items"] = 2
    with pytest.raises(DependencyUnavailable, match="run it again to go on"):
        await import_playlist(spotify_api, database)
    assert len(songs(url)) == 50
    assert cursors(url) == ['[50, "first"]']
    spotify_api.broken_from.clear()
    rest = await import_playlist(spotify_api, database)
    assert (rest.went_on, rest.n_rows, rest.n_inserted) == (True, 70, 70)
    assert sorted(song["title_en"] for song in songs(url)) == sorted(f"Song {number}" for number in range(120))


async def test_a_playlist_that_has_changed_meanwhile_is_read_from_its_beginning(
    spotify_api: SpotifyApi, database: Database
) -> None:
    await import_playlist(spotify_api, database, limit=50)
    spotify_api.snapshot = "second"
    spotify_api.tracks.insert(0, track(500))
    report = await import_playlist(spotify_api, database)
    assert (report.n_rows, report.n_inserted) == (121, 71)


async def test_afresh_begins_anew(spotify_api: SpotifyApi, database: Database) -> None:
    await import_playlist(spotify_api, database, limit=50)
    report = await import_playlist(spotify_api, database, afresh=True)
    assert (report.went_on, report.n_rows, report.n_unchanged) == (False, 120, 50)


@pytest.mark.parametrize(
    ("path", "status", "body", "sentence"),
    [
        ("/api/token", 400, '{"error": "invalid_client"}', "refuses SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET"),
        ("/v1/playlists/aPlaylist", 401, '{"error": {"message": "no"}}', "refuses SPOTIFY_CLIENT_ID"),
        ("/v1/playlists/aPlaylist", 404, '{"error": {"message": "no"}}', "knows no such playlist"),
        ("/v1/playlists/aPlaylist/items", 403, '{"error": {"message": "no"}}', "does not let this application"),
    ],
)
async def test_what_no_wait_mends_is_said(
    path: str, status: int, body: str, sentence: str, spotify_api: SpotifyApi, database: Database
) -> None:
    spotify_api.fail(path, status, body=body)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        await import_playlist(spotify_api, database)
    assert CLIENT_SECRET not in str(caught.value)
    assert spotify_api.count(path) == 1


def test_without_spotipy_or_its_keys_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET are needed"):
        Spotify(SecretStr("an-application"), SecretStr(""), quick_calls("Spotify"), Told().append)
    monkeypatch.setitem(sys.modules, "spotipy", None)
    with pytest.raises(ConfigurationError, match=r"spotipy is missing: pip install -r requirements-import\.txt"):
        Spotify(SecretStr("an-application"), SecretStr("x"), quick_calls("Spotify"), Told().append)


async def command(url: str, *arguments: str, **environment: str) -> Outcome:
    quick = {"IMPORT_CALLS_PER_S": "100", "DATABASE_URL": url, **environment}
    return await run_here("import", *arguments, environment=quick)


async def test_the_command_imports_and_says_so(spotify_api: SpotifyApi, url: str) -> None:
    def client(*arguments: Any, **options: Any) -> Any:
        made = unpatched(*arguments, **options)
        made.prefix, made.auth_manager.OAUTH_TOKEN_URL = f"{spotify_api.url}/v1/", f"{spotify_api.url}/api/token"
        return made

    unpatched = spotipy.Spotify
    keys = {"SPOTIFY_CLIENT_ID": "an-application", "SPOTIFY_CLIENT_SECRET": CLIENT_SECRET}
    spotify_api.fail("/v1/audio-features", 403)
    with patch.object(spotipy, "Spotify", client):
        outcome = await command(url, "spotify", "--playlist", "aPlaylist", "--limit", "70", **keys)
    assert outcome.code == 0, outcome.err
    assert "70 rows: 70 songs new, 0 changed, 0 as they were; 0 rows left out" in outcome.out
    assert outcome.err.count("audio features") == 1
    assert CLIENT_SECRET not in outcome.out + outcome.err


async def test_the_command_wants_one_of_playlist_and_search(url: str) -> None:
    for arguments in ((), ("--playlist", "a", "--search", "b")):
        outcome = await command(url, "spotify", *arguments)
        assert (outcome.code, outcome.err.strip()) == (2, "give either --playlist or --search")


# --- RAWG ---


async def import_games(
    api: RawgApi, database: Database, *, key: str = RAWG_KEY, waits_s: list[float] | None = None
) -> ImportReport:
    async with httpx.AsyncClient() as http:
        source = RawgSource(http, SecretStr(key), quick_calls("RAWG", waits_s), url=f"{api.url}/games")
        importing = Importing(source=source, cursors=SqlImportCursors(database))
        return await import_items(importing, layout_of(GAMES, "rawg"), SqlIngestStore(database, GAMES))


def games(url: str) -> list[Mapping[str, Any]]:
    with connection(url) as opened:
        return [dict(row) for row in opened.exec_driver_sql("SELECT * FROM game ORDER BY game_id").mappings()]


async def test_games_come_page_by_page(rawg_api: RawgApi, database: Database, url: str) -> None:
    report = await import_games(rawg_api, database)
    assert (report.n_rows, report.n_inserted, report.n_left_out) == (100, 100, 0)
    assert rawg_api.count("/games") == 3
    first = games(url)[0]
    assert (first["game_name"], first["genre"], first["rating"], first["playtime"]) == (
        "Game 1",
        "Action, RPG",
        4.5,
        12,
    )
    again = await import_games(rawg_api, database)
    assert (again.n_inserted, again.n_updated, again.n_unchanged) == (0, 0, 100)


async def test_a_page_that_fails_in_the_middle_is_gone_on_with(rawg_api: RawgApi, database: Database, url: str) -> None:
    await SqlImportCursors(database).keep("elsewhere", "7")
    rawg_api.broken_from["/games"] = 2
    with pytest.raises(DependencyUnavailable, match="RAWG: status 500") as caught:
        await import_games(rawg_api, database)
    assert RAWG_KEY not in str(caught.value)
    assert len(games(url)) == 40
    rawg_api.broken_from.clear()
    rest = await import_games(rawg_api, database)
    assert (rest.went_on, rest.n_rows, rest.n_inserted) == (True, 60, 60)
    assert len({row["game_name"] for row in games(url)}) == len(games(url)) == 100
    assert cursors(url) == ["7"], "others go on where they were"


async def test_rawg_is_waited_for_and_asked_again(rawg_api: RawgApi, database: Database) -> None:
    waits_s: list[float] = []
    rawg_api.fail("/games", 429, Retry_After="9")
    rawg_api.fail("/games", 200, body='{"count": 100, "results": [{"id"')
    rawg_api.fail("/games", 200, body='{"count": 100}')
    assert (await import_games(rawg_api, database, waits_s=waits_s)).n_inserted == 100
    assert 9.0 in waits_s


async def test_a_key_that_is_refused_is_said_and_not_shown(rawg_api: RawgApi, database: Database) -> None:
    with pytest.raises(ConfigurationError, match="RAWG refuses RAWG_API_KEY") as caught:
        await import_games(rawg_api, database, key="wr0ng-pa55word")
    assert "pa55word" not in str(caught.value)


async def test_a_server_that_is_not_there_is_told_without_its_address(database: Database) -> None:
    with pytest.raises(DependencyUnavailable, match=r"RAWG: no answer \(ConnectError\)") as caught:
        await import_games(RawgApi(url="http://127.0.0.1:9"), database)
    assert RAWG_KEY not in str(caught.value)


async def test_games_that_do_not_fit_are_left_out_and_told(rawg_api: RawgApi, database: Database) -> None:
    rawg_api.games = [game(1), game(2, rating=11), game(3, name=None), "no game"]
    report = await import_games(rawg_api, database)
    assert (report.n_inserted, report.n_left_out) == (1, 3)
    assert report.problems[0] == "2: rating is not from 0 to 5: 11"


async def test_the_command_imports_games(rawg_api: RawgApi, url: str) -> None:
    with patch("services.rawg.RawgSource.__init__.__kwdefaults__", {"query": "", "url": f"{rawg_api.url}/games"}):
        outcome = await command(url, "rawg", "--limit", "50", CATALOGUE_PROFILE="games", RAWG_API_KEY=RAWG_KEY)
    assert outcome.code == 0, outcome.err
    assert "50 rows: 50 games new" in outcome.out
    assert RAWG_KEY not in outcome.out + outcome.err


async def test_a_profile_that_does_not_say_what_becomes_of_games_names_what_is_missing(url: str) -> None:
    outcome = await command(url, "rawg", RAWG_API_KEY=RAWG_KEY)
    assert outcome.code == 2
    assert "nothing says what becomes of rawg: give --mapping" in " ".join(outcome.err.split())


async def test_without_its_key_the_command_says_which_is_needed(url: str) -> None:
    outcome = await command(url, "rawg", CATALOGUE_PROFILE="games")
    assert outcome.code == 2
    assert "RAWG_API_KEY is needed" in outcome.err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (True, "true"), (4.5, "4.5"), ("x", "x"), ([], ""), ({}, ""), ({"id": 1}, ""),
        ({"id": 4, "name": "Action"}, "Action"), ([{"name": "A"}, None, {"name": "B"}], "A;B"),
        ([{"platform": {"id": 1, "name": "PC"}}], "PC"),
    ],
)  # fmt: skip
def test_values_become_cells(value: object, text: str) -> None:
    assert text_of(value) == text
