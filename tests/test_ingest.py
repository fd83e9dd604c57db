"""Ingest of track files into a catalogue that is ours, on the databases that it runs on."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from config.catalogue_profile import load_profile
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.collaborative import Interaction
from core.ports.filling import IngestStore
from models.catalogue import Item
from models.source import SourceItem, SourceListener
from services.catalogue import SqlCatalogue
from services.database import Database, open_database
from services.ingest_store import SqlIngestStore
from services.listener_store import SqlListenerStore
from services.migrations import upgrade
from services.schema import item_source
from tests.support.backend_tables import member, playlist, playlist_song, song, song_like
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, connection, execute, insert_songs, like
from tests.support.track_rows import KAGGLE_HEADER, KAGGLE_ROW, SONGS_HEADER, SONGS_ROW, csv_text
from training.ingest import IngestReport, Progress, layouts_of, save_items, source_hash
from training.ingest import ingest as ingest_file
from training.track_files import LAYOUTS, Track, language_of, mood_of, song_of

SONGS = load_profile("songs")


class RecordingStore:
    """An ``IngestStore`` in memory."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[SourceItem, bytes]] = {}
        self.batches: list[int] = []
        self.likes: set[tuple[int, int]] = set()
        self.listeners: Sequence[SourceListener] = ()

    async def prepare(self) -> None:
        """Always ready."""

    async def content_hashes(self, source: str) -> dict[str, bytes]:
        return {source_id: content for source_id, (_, content) in self.items.items()}

    async def save(self, source: str, items: Sequence[SourceItem], content_hashes: Sequence[bytes]) -> None:
        self.batches.append(len(items))
        saved = zip(items, content_hashes, strict=True)
        self.items |= {item.source_id: (item, content) for item, content in saved}

    async def item_ids(self, source: str) -> dict[str, int]:
        return {source_id: place for place, source_id in enumerate(self.items, start=1)}

    async def save_likes(self, likes: Sequence[Interaction]) -> int:
        new = {(like.member_id, like.item_id) for like in likes} - self.likes
        self.likes |= new
        return len(new)

    async def save_listeners(self, listeners: Sequence[SourceListener]) -> None:
        self.listeners = listeners

    def item(self, source_id: str) -> SourceItem:
        return self.items[source_id][0]


async def ingest(path: Path, store: IngestStore, progress: Progress = lambda _done, _total: None) -> IngestReport:
    return await ingest_file(path, store, LAYOUTS, progress)


def write_songs(path: Path, *rows: Mapping[str, str]) -> Path:
    file = path / "songs.csv"
    file.write_text(csv_text(SONGS_HEADER, [{**SONGS_ROW, **row} for row in rows]), encoding="utf-8")
    return file


def write_kaggle(path: Path, *rows: Mapping[str, str]) -> Path:
    file = path / "kaggle.csv"
    file.write_text(csv_text(KAGGLE_HEADER, [{**KAGGLE_ROW, **row} for row in rows]), encoding="utf-8")
    return file


def tables(url: str) -> set[str]:
    with connection(url) as opened:
        return set(sa.inspect(opened).get_table_names())


def counts(report: IngestReport) -> tuple[int, int, int]:
    return report.n_inserted, report.n_updated, report.n_unchanged


def track(title: str = "Dawn", artists: tuple[str, ...] = ("Yoon",), genre: str | None = "pop") -> Track:
    features = {"valence": 0.6, "energy": 0.8}
    return Track(track_id="t1", title=title, artists=artists, genre=genre, features=features, popularity=66)


# --- what a row becomes ---


def test_a_row_becomes_a_song() -> None:
    assert song_of(track()) == SourceItem(
        source_id="t1",
        titles={"en": "Dawn"},
        creator="Yoon",
        genres=("pop",),
        mood="happy",
        language="en",
        features={"valence": 0.6, "energy": 0.8},
        popularity=0.66,
    )


@pytest.mark.parametrize(
    ("title", "language"),
    [
        ("Dawn", "en"),
        ("Début", "en"),
        ("Ночь", "en"),
        ("123 !?", "en"),
        ("봄날", "ko"),
        ("피카부 Peek-A-Boo", "ko"),
        ("ㅋㅋ", "ko"),
        ("ガラスのPALM TREE", "ja"),
        ("別世界", "ja"),
        ("ﾌﾞﾙｰ", "ja"),
    ],
)
def test_the_script_of_the_title_says_its_language(title: str, language: str) -> None:
    assert language_of(title) == language
    assert song_of(track(title)).titles == {language: title}


@pytest.mark.parametrize(
    ("valence", "energy", "mood"),
    [(0.9, 0.9, "happy"), (0.1, 0.9, "tense"), (0.9, 0.1, "calm"), (0.1, 0.1, "sad"), (0.5, 0.5, "happy")],
)
def test_mood_is_the_quadrant_of_valence_and_energy(valence: float, energy: float, mood: str) -> None:
    assert mood_of({"valence": valence, "energy": energy}) == mood


def test_without_valence_or_energy_there_is_no_mood() -> None:
    assert mood_of({"valence": 0.5}) is mood_of({"energy": 0.5}) is mood_of({}) is None


@pytest.mark.parametrize("title", ["Come, dy", "Duet (feat. Park)", 'A "B"; C'])
def test_the_title_stands_as_in_the_file_and_all_artists_are_the_artist(title: str) -> None:
    item = song_of(track(title, ("Yoon", "Park", "Tyler, The Creator")))
    assert (item.titles, item.creator) == ({"en": title}, "Yoon, Park, Tyler, The Creator")


def test_an_artist_in_another_script_does_not_change_the_language_of_the_title() -> None:
    assert song_of(track("Duet", ("Yoon", "아이유"))).language == "en"


def test_a_track_without_artist_is_a_song_without_artist() -> None:
    assert song_of(track(artists=())).creator is None


def test_text_that_is_too_long_ends_in_an_ellipsis() -> None:
    item = song_of(track("long " * 100, ("x" * 300,), "g" * 300))
    assert len(item.titles["en"]) <= 255
    assert item.titles["en"].endswith("long…")
    assert item.creator == "x" * 254 + "…"
    assert item.genres == ()


def test_a_comma_in_a_genre_does_not_make_two() -> None:
    assert song_of(track(genre="drum, bass")).genres == ("drum/ bass",)


def test_the_source_hash_changes_with_anything() -> None:
    one = song_of(track())
    others = [song_of(track("Dusk")), song_of(track(genre="rock")), song_of(track(artists=("Kim",)))]
    assert len({source_hash(item) for item in [one, *others]}) == 4
    assert source_hash(one) == source_hash(song_of(track()))


# --- the flow, on a store in memory ---


async def test_a_track_that_stands_once_per_genre_becomes_one_song_of_several_genres(tmp_path: Path) -> None:
    file = write_kaggle(
        tmp_path,
        {"track_genre": "acoustic"},
        {"track_id": "other"},
        {"track_genre": "j-pop", "popularity": "1"},
        {"track_genre": "acoustic"},
        {"track_genre": "wrong", "energy": "7"},
    )
    store = RecordingStore()
    report = await ingest(file, store)
    assert (report.source, report.n_rows, report.n_bad_rows, counts(report)) == ("spotify_tracks", 5, 1, (2, 0, 0))
    assert store.item("5SuO").genres == ("acoustic", "j-pop")
    assert store.item("5SuO").popularity == 0.73


async def test_bad_rows_are_reported_and_the_others_are_saved(tmp_path: Path) -> None:
    file = write_songs(tmp_path, {}, {"track_name": ""}, {"track_id": "t3", "energy": "9"}, {"track_id": "t4"})
    store = RecordingStore()
    report = await ingest(file, store)
    assert [str(problem) for problem in report.problems] == [
        "line 3: track_name is empty",
        "line 4: energy is not from 0 to 1: 9",
    ]
    assert store.items.keys() == {"t1", "t4"}


async def test_of_very_many_bad_rows_a_thousand_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    report = await ingest(write_songs(tmp_path, *[{"energy": "9"}] * 1200), RecordingStore())
    assert (report.n_bad_rows, len(report.problems), report.n_items) == (1200, 1000, 0)


async def test_a_bad_first_row_of_a_track_does_not_hide_its_good_one(tmp_path: Path) -> None:
    store = RecordingStore()
    await ingest(write_songs(tmp_path, {"energy": "9"}, {"track_name": "Good"}), store)
    assert store.item("t1").titles == {"en": "Good"}


async def test_a_second_run_saves_nothing(tmp_path: Path) -> None:
    file, store = write_songs(tmp_path, {}, {"track_id": "t2"}), RecordingStore()
    assert counts(await ingest(file, store)) == (2, 0, 0)
    assert counts(await ingest(file, store)) == (0, 0, 2)
    assert store.batches == [2]


async def test_only_rows_that_changed_are_saved_again(tmp_path: Path) -> None:
    store = RecordingStore()
    await ingest(write_songs(tmp_path, {}, {"track_id": "t2"}), store)
    report = await ingest(write_songs(tmp_path, {"popularity": "1"}, {"track_id": "t2"}, {"track_id": "t3"}), store)
    assert counts(report) == (1, 1, 1)
    assert store.batches == [2, 2]


async def test_progress_is_told_after_each_batch(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    file = write_songs(tmp_path, *({"track_id": f"t{number}"} for number in range(2500)))
    await ingest(file, RecordingStore(), lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]


async def test_a_file_of_no_layout_touches_nothing(tmp_path: Path) -> None:
    class Untouchable(RecordingStore):
        async def prepare(self) -> None:
            raise AssertionError

    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigurationError, match="has not the columns"):
        await ingest(tmp_path / "x.csv", Untouchable())


# --- the store, on real databases ---


class _IngestTests(WithTables):
    @pytest.fixture
    def store(self, database: Database) -> IngestStore:
        return SqlIngestStore(database, SONGS)

    async def items(self, database: Database) -> list[Item]:
        return [item async for batch in SqlCatalogue(database, SONGS).stream() for item in batch]

    async def test_songs_are_read_back_through_the_catalogue(
        self, database: Database, store: IngestStore, tmp_path: Path
    ) -> None:
        rows: list[dict[str, str]] = [
            {},
            {"track_id": "t2", "track_name": "봄날"},
            {"track_id": "t3", "track_name": "光線"},
        ]
        await ingest(write_songs(tmp_path, *rows), store)
        first, second, third = await self.items(database)
        assert (first.item_id, first.creator, first.genres, first.moods) == (1, "Yoon", ("pop",), ("happy",))
        assert [item.titles for item in (first, second, third)] == [{"en": "Dawn"}, {"ko": "봄날"}, {"ja": "光線"}]
        assert [item.language for item in (first, second, third)] == ["en", "ko", "ja"]
        assert first.features["tempo"] == 120.5
        assert first.popularity == pytest.approx(0.66)

    async def test_several_genres_are_read_back(self, database: Database, store: IngestStore, tmp_path: Path) -> None:
        await ingest(write_kaggle(tmp_path, {}, {"track_genre": "j-pop"}), store)
        (item,) = await self.items(database)
        assert (item.genres, item.creator) == (("acoustic", "j-pop"), "Gen Hoshino, Guest")
        assert item.titles == {"en": "Comedy"}

    async def test_a_rerun_changes_no_row(self, url: str, store: IngestStore, tmp_path: Path) -> None:
        file = write_songs(tmp_path, {}, {"track_id": "T1"})
        await ingest(file, store)
        execute(url, "UPDATE song SET modified_at = '2001-01-01 00:00:00', tj_number = 7")
        assert counts(await ingest(file, store)) == (0, 0, 2)
        with connection(url) as opened:
            rows = opened.execute(sa.select(song.c.modified_at, song.c.tj_number)).all()
        assert [(row.modified_at.year, row.tj_number) for row in rows] == [(2001, 7), (2001, 7)]

    async def test_a_changed_row_is_updated_in_place(
        self, url: str, database: Database, store: IngestStore, tmp_path: Path
    ) -> None:
        await ingest(write_songs(tmp_path, {}, {"track_id": "t2"}), store)
        execute(url, "UPDATE song SET modified_at = '2001-01-01 00:00:00', tj_number = 7")
        changes = {"track_name": "봄", "genre": "", "popularity": "5", "tempo": "60"}
        assert counts(await ingest(write_songs(tmp_path, changes, {"track_id": "t2"}), store)) == (0, 1, 1)
        first, second = await self.items(database)
        assert (first.item_id, first.titles, first.genres, first.features["tempo"]) == (1, {"ko": "봄"}, (), 60)
        assert first.popularity == pytest.approx(0.05)
        assert first.columns["tj_number"] == 7
        assert second.titles == {"en": "Dawn"}
        with connection(url) as opened:
            modified = opened.scalars(sa.select(song.c.modified_at).order_by(song.c.song_id)).all()
        assert modified[0] is not None
        assert [instant.year == 2001 for instant in modified if instant] == [False, True]

    async def test_a_song_that_somebody_deleted_comes_back_under_its_id(
        self, url: str, database: Database, store: IngestStore, tmp_path: Path
    ) -> None:
        file = write_songs(tmp_path, {}, {"track_id": "t2"})
        await ingest(file, store)
        execute(url, "DELETE FROM song WHERE song_id = 2")
        assert counts(await ingest(file, store)) == (1, 0, 1)
        assert [item.item_id for item in await self.items(database)] == [1, 2]

    async def test_two_sources_do_not_mix(self, database: Database, store: IngestStore, tmp_path: Path) -> None:
        await ingest(write_songs(tmp_path, {"track_id": "same"}), store)
        await ingest(write_kaggle(tmp_path, {"track_id": "same"}), store)
        await ingest(write_songs(tmp_path, {"track_id": "same"}, {"track_id": "more"}), store)
        assert [item.item_id for item in await self.items(database)] == [1, 2, 3]

    async def test_rows_that_ingest_did_not_write_are_refused(
        self, url: str, store: IngestStore, tmp_path: Path
    ) -> None:
        file = write_songs(tmp_path, {})
        await ingest(file, store)
        insert_songs(url, {"song_id": 70, "title_en": "Somebody's"})
        with pytest.raises(ConfigurationError, match=r"table 'song' holds rows .*song_id 70"):
            await ingest(file, store)
        with connection(url) as opened:
            assert opened.scalar(sa.select(sa.func.count()).select_from(item_source)) == 1

    async def test_two_ingests_at_once_do_not_write_over_each_other(self, url: str, store: IngestStore) -> None:
        batches = [[SourceItem(source_id=f"{name}{n}", titles={"en": name}) for n in range(300)] for name in "ab"]
        saves = [store.save("s", batch, [b"h"] * len(batch)) for batch in batches]
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert len(refused) < 2
        assert all(isinstance(outcome, ConfigurationError | DependencyUnavailable) for outcome in refused)
        with connection(url) as opened:
            n_songs = opened.scalar(sa.select(sa.func.count()).select_from(song))
            n_sources = opened.scalar(sa.select(sa.func.count(item_source.c.item_id.distinct())))
        assert n_songs == n_sources == 300 * (2 - len(refused))

    async def test_an_item_twice_in_one_batch_is_refused_in_words(self, store: IngestStore) -> None:
        item = song_of(track())
        with pytest.raises(ConfigurationError, match="another ingest writes to 'song'"):
            await store.save("s", [item, item], [b"h", b"h"])

    async def test_a_batch_that_fails_leaves_nothing(self, url: str, store: IngestStore) -> None:
        items = [SourceItem(source_id=source_id, titles={"en": "A"}) for source_id in ("a", "x" * 400)]
        too_wide = [b"h", b"h" * 2000] if url.startswith("mysql") else [b"h"]
        with pytest.raises((sa.exc.DataError, ValueError)):
            await store.save("s", items, too_wide)
        with connection(url) as opened:
            assert opened.scalar(sa.select(sa.func.count()).select_from(song)) == 0

    async def test_saving_nothing_is_nothing(self, store: IngestStore) -> None:
        await store.save("s", [], [])
        assert await store.content_hashes("s") == {}

    async def test_made_up_members_are_read_back_as_listeners(
        self, database: Database, store: IngestStore, tmp_path: Path
    ) -> None:
        await ingest(write_songs(tmp_path, *({"track_id": f"t{number}"} for number in range(5))), store)
        listeners = [SourceListener(member_id=1, liked_ids=(3, 1), playlist_ids=(2, 3)), SourceListener(member_id=2)]
        await store.save_listeners(listeners)
        found = await SqlListenerStore(database, SONGS).listener(1)
        assert found.seen_ids == {1, 2, 3}
        assert {interest.item_id for interest in found.interests} == {1, 2, 3}
        assert not (await SqlListenerStore(database, SONGS).listener(2)).seen_ids

    async def test_made_up_members_replace_those_of_before(self, url: str, store: IngestStore) -> None:
        await store.save_listeners([SourceListener(member_id=n, liked_ids=(1, 2), playlist_ids=(1,)) for n in (1, 2)])
        await store.save_listeners([SourceListener(member_id=1, liked_ids=(3,))])
        with connection(url) as opened:
            sizes = [
                opened.scalar(sa.select(sa.func.count()).select_from(table))
                for table in (member, song_like, playlist, playlist_song)
            ]
            assert opened.scalars(sa.select(song_like.c.song_id)).all() == [3]
        assert sizes == [1, 1, 0, 0]

    async def test_real_members_are_never_touched(self, url: str, store: IngestStore) -> None:
        like(url, 77, 1)
        with pytest.raises(ConfigurationError, match=r"table 'song_like' holds members .*member_id 77"):
            await store.save_listeners([SourceListener(member_id=1)])
        execute(url, "DELETE FROM song_like", "INSERT INTO member (member_id, email) VALUES (5, 'a@example.com')")
        with pytest.raises(ConfigurationError, match="table 'member' holds members"):
            await store.save_listeners([SourceListener(member_id=1)])

    async def test_thousands_of_songs_take_seconds(self, store: IngestStore) -> None:
        items = [SourceItem(source_id=f"s{n}", titles={"en": f"Title {n}"}, creator="A") for n in range(5000)]
        started_s = time.monotonic()
        report = await save_items("s", items, store, len(items))
        assert report.n_inserted == 5000
        # 26,229 songs in 30 s is the bar; a statement a row would take minutes.
        assert time.monotonic() - started_s < 6


class TestIngestOnMySql(OnMySql, _IngestTests):
    pass


class TestIngestOnSqlite(OnSqlite, _IngestTests):
    pass


class _EmptyDatabaseTests:
    async def test_the_tables_are_created_where_they_are_absent(self, url: str, tmp_path: Path) -> None:
        upgrade(url)
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            await ingest(write_songs(tmp_path, {}), SqlIngestStore(database, SONGS))
        with connection(url) as opened:
            assert opened.scalar(sa.select(song.c.title_en)) == "Dawn"
            assert sa.inspect(opened).has_table("playlist_song")

    async def test_without_our_own_tables_the_command_that_makes_them_is_named(self, url: str, tmp_path: Path) -> None:
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match=r"songs_ai_.*main\.py migrate"):
                await ingest(write_songs(tmp_path, {}), SqlIngestStore(database, SONGS))
        assert tables(url) == set()

    @pytest.mark.parametrize("is_migrated", [False, True])
    async def test_a_backends_database_is_refused_naming_the_table_and_left_as_it_was(
        self, url: str, tmp_path: Path, is_migrated: bool
    ) -> None:
        execute(
            url,
            "CREATE TABLE song (song_id BIGINT PRIMARY KEY, title_en VARCHAR(255))",
            "INSERT INTO song VALUES (7, 'X')",
        )
        if is_migrated:
            upgrade(url)
        before = tables(url)
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match=r"table 'song' holds rows .*song_id 7"):
                await ingest(write_songs(tmp_path, {}), SqlIngestStore(database, SONGS))
        assert tables(url) == before

    async def test_beside_an_empty_song_table_too_our_own_tables_come_first(self, url: str, tmp_path: Path) -> None:
        execute(url, "CREATE TABLE song (song_id BIGINT PRIMARY KEY)")
        async with open_database(url, pool_size=1, timeout_s=5) as database:
            with pytest.raises(ConfigurationError, match=r"main\.py migrate"):
                await ingest(write_songs(tmp_path, {}), SqlIngestStore(database, SONGS))
        assert tables(url) == {"song"}


class TestEmptyMySql(OnMySql, _EmptyDatabaseTests):
    pass


class TestEmptySqlite(OnSqlite, _EmptyDatabaseTests):
    pass


async def test_the_real_file_is_ingested_whole_and_a_second_time_not_at_all(data_dir: Path) -> None:
    store = RecordingStore()
    first, second = [await ingest(data_dir / "spotify_songs.csv", store) for _ in range(2)]
    assert (counts(first), first.problems) == ((26229, 0, 0), ())
    assert counts(second) == (0, 0, 26229)
    languages = {
        language: sum(item.language == language for item, _ in store.items.values()) for language in ("ko", "ja")
    }
    assert languages == {"ko": 13, "ja": 49}


# --- files and tables of another profile ---

GAMES = load_profile("games")


def write_games(path: Path, *rows: str) -> Path:
    file = path / "games.csv"
    file.write_text("\ufeffgame_id,game_name,playtime,rating,genre,owned_ratio\n" + "\n".join(rows), encoding="utf-8")
    return file


def write_picks(path: Path, *rows: str) -> Path:
    file = path / "picks.csv"
    file.write_text("\ufeffuser_id,game_id,game_name\n" + "\n".join(rows), encoding="utf-8")
    return file


class _GamesTests:
    @pytest.fixture
    async def games(self, url: str) -> AsyncIterator[Database]:
        upgrade(url)
        async with open_database(url, pool_size=2, timeout_s=5) as database:
            yield database

    async def take_in(self, games: Database, file: Path) -> IngestReport:
        return await ingest_file(file, SqlIngestStore(games, GAMES), layouts_of(GAMES))

    async def test_items_keep_their_ids_and_are_read_back(self, games: Database, tmp_path: Path) -> None:
        file = write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37", '9,"Tag, again",0,,"Action, Indie",')
        assert counts(await self.take_in(games, file)) == (2, 0, 0)
        assert counts(await self.take_in(games, file)) == (0, 0, 2)
        second, first = [item async for batch in SqlCatalogue(games, GAMES).stream() for item in batch]
        assert (first.item_id, first.titles, first.genres) == (70, {"en": "Age of War"}, ("Casual",))
        assert first.columns == {"game_name": "Age of War", "genre": "Casual", "rating": 4.1, "playtime": 12}
        assert first.features == {"playtime": 12, "rating": 4.1}
        assert first.popularity == pytest.approx(0.37)
        assert (second.item_id, second.genres, second.columns["rating"]) == (9, ("Action", "Indie"), None)
        assert second.features == {"playtime": 0}

    async def test_a_changed_row_changes_further_columns_too(self, games: Database, tmp_path: Path) -> None:
        await self.take_in(games, write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37"))
        assert counts(await self.take_in(games, write_games(tmp_path, "70,Age of War,13,4.1,Casual,0.37"))) == (0, 1, 0)
        (item,) = await SqlCatalogue(games, GAMES).complete_items([70])
        assert (item.columns["playtime"], item.features["playtime"]) == (13, 13)

    async def test_an_id_of_another_sources_item_is_refused(self, games: Database, tmp_path: Path) -> None:
        await self.take_in(games, write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37"))
        store = SqlIngestStore(games, GAMES)
        with pytest.raises(ConfigurationError, match=r"item 70 of 's' is there already, as '70' of 'popular_games'"):
            await store.save("s", [SourceItem(source_id="x", item_id=70, titles={"en": "Other"})], [b"h"])

    async def test_likes_are_inserted_once_and_rows_of_nothing_known_are_told(
        self, games: Database, tmp_path: Path
    ) -> None:
        await self.take_in(games, write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37", "9,Tag,0,4,Action,0.2"))
        picks = write_picks(
            tmp_path, "1,70,Age of War", "1,9,Tag", "2,70,Age of War", "1,70,again", "3,8,None", ",9,Tag"
        )
        first, second = await self.take_in(games, picks), await self.take_in(games, picks)
        assert (first.is_of_likes, first.n_rows, first.n_bad_rows, counts(first)) == (True, 6, 2, (3, 0, 1))
        assert counts(second) == (0, 0, 4)
        assert [str(problem) for problem in first.problems] == [
            "line 6: game_id '8' is no item of popular_games",
            "line 7: user_id is empty",
        ]
        listener = await SqlListenerStore(games, GAMES).listener(1)
        assert {interest.item_id for interest in listener.interests} == {9, 70}

    async def test_likes_before_their_items_are_all_left_out(self, games: Database, tmp_path: Path) -> None:
        report = await self.take_in(games, write_picks(tmp_path, "1,70,Age of War"))
        assert (report.n_bad_rows, counts(report)) == (1, (0, 0, 0))

    async def test_made_up_members_are_written_where_there_are_none_at_all(
        self, games: Database, tmp_path: Path
    ) -> None:
        """Without a table of members nobody could tell them from real ones."""
        store = SqlIngestStore(games, GAMES)
        await self.take_in(games, write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37"))
        await store.save_listeners([SourceListener(member_id=5, liked_ids=(70,), playlist_ids=(70,))])
        assert (await SqlListenerStore(games, GAMES).listener(5)).seen_ids == {70}
        with pytest.raises(ConfigurationError, match=r"table 'game_pick' holds members .*user_id 5"):
            await store.save_listeners([SourceListener(member_id=6)])

    async def test_a_backends_items_are_left_alone(self, url: str, games: Database, tmp_path: Path) -> None:
        execute(url, "CREATE TABLE game (game_id BIGINT PRIMARY KEY)", "INSERT INTO game VALUES (7)")
        with pytest.raises(ConfigurationError, match=r"table 'game' holds rows .*game_id 7"):
            await self.take_in(games, write_games(tmp_path, "70,Age of War,12,4.1,Casual,0.37"))
        assert "game_pick" not in tables(url)


class TestGamesOnMySql(OnMySql, _GamesTests):
    pass


class TestGamesOnSqlite(OnSqlite, _GamesTests):
    pass


async def test_a_profile_that_declares_no_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="declares no files"):
        await ingest_file(tmp_path / "any.csv", RecordingStore(), ())


async def test_a_file_of_songs_is_none_of_games(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"songs\.csv has not the column"):
        await ingest_file(write_songs(tmp_path, {}), RecordingStore(), layouts_of(GAMES))


async def test_likes_come_in_batches_and_tell_how_far_they_are(tmp_path: Path) -> None:
    store, told = RecordingStore(), list[tuple[int, int]]()
    await ingest_file(write_games(tmp_path, "70,A,1,4,Casual,0.3"), store, layouts_of(GAMES))
    picks = write_picks(tmp_path, *(f"{member},70,A" for member in range(1, 2501)))
    await ingest_file(picks, store, layouts_of(GAMES), lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert len(store.likes) == 2500
