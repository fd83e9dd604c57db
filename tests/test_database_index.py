"""One body of tests for the index in memory and the two inside the database, and what the latter do beside."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.arrays import Floats
from core.ports.index import ItemIndex, Predicate
from models.catalogue import ItemFacts
from models.log_event import LogEvent
from services import item_codes, migrations
from services.candidate_queries import by_signs, comma_separated
from services.clock import SystemClock
from services.database import Database, open_database
from services.database_index import DatabaseItemIndex, RefreshingDatabaseIndex
from services.embedding_store import SqlEmbeddingStore
from services.item_codes import NATIVE, SIGN_CODES, has_vector_index
from services.item_index import InMemoryItemIndex
from tests.support.catalogue import (
    SONGS,
    OnMySql,
    WithTables,
    connection,
    create_all_tables,
    execute,
    give_features,
    insert_songs,
    like,
    statements_sent,
    update_song,
)
from tests.support.clustered import clustered_rows
from tests.support.empty_stores import empty_database, recreate_database
from tests.support.song_vectors import GivenEmbedder, Noted, save_vectors
from tests.support.waiting import until

DIM = 64
EMBEDDER = GivenEmbedder(DIM)
N = 60
GENRES = ("Rock, pop", "pop", "jazz ,hip hop", None, "city pop")
MOODS = ("calm", None, "wild, calm")
LANGUAGES = ("ko", "EN", None)


def server_version(url: str) -> str:
    with connection(url) as opened:
        return str(opened.exec_driver_sql("SELECT VERSION()").scalar_one())


class OnVectorIndex:
    """The tests of a class run on a MariaDB that has a vector index."""

    @pytest.fixture
    def vector_url(self, mysql_url: str) -> Iterator[str]:
        given = os.environ.get("TEST_VECTOR_DATABASE_URL")
        if given:
            with empty_database(given) as url:
                yield url
        elif has_vector_index(version := server_version(mysql_url)):
            yield mysql_url
        else:
            pytest.skip(
                f"{version} has no vector index: set TEST_VECTOR_DATABASE_URL to a MariaDB of 11.7 or newer,"
                " or let the tests find one (Debian 13 has 11.8)"
            )

    @pytest.fixture
    def url(self, vector_url: str) -> str:
        return vector_url


def provider_on(
    database: Database,
    method: str | None,
    *,
    observer: Noted | None = None,
    embedder: GivenEmbedder = EMBEDDER,
    **options: object,
) -> RefreshingDatabaseIndex:
    return RefreshingDatabaseIndex(
        database,
        SONGS,
        SqlEmbeddingStore(database, SONGS),
        embedder,
        clock=SystemClock(),
        observer=observer or Noted(),
        method=method,
        **{"refresh_s": 0.01, **options},  # type: ignore[arg-type]
    )


def vectors_of(n: int, seed: int = 1) -> Floats:
    return clustered_rows(n, DIM, seed=seed).astype(np.float16).astype(np.float32)


async def fill(url: str, database: Database, vectors: Floats) -> None:
    """Songs 1, 2, 3 ... with attributes that repeat, and these vectors."""
    songs = [
        {
            "song_id": n,
            "artist": f"Artist {n % 7}",
            "genre": GENRES[n % len(GENRES)],
            "mood": MOODS[n % len(MOODS)],
            "lang": LANGUAGES[n // 2 % len(LANGUAGES)],
        }
        for n in range(1, len(vectors) + 1)
    ]
    await asyncio.to_thread(insert_songs, url, *songs)
    await save_vectors(database, range(1, len(vectors) + 1), vectors)


async def fill_plainly(url: str, database: Database, vectors: Floats) -> None:
    """Many songs without attributes."""
    with connection(url) as opened:
        opened.execute(
            sa.text("INSERT INTO song (song_id, is_active) VALUES (:id, 1)"),
            [{"id": n} for n in range(1, len(vectors) + 1)],
        )
    await save_vectors(database, range(1, len(vectors) + 1), vectors)


async def ids_near(index: ItemIndex, query: Floats, n: int = 5, **options: object) -> list[int]:
    [hits] = await index.search(query[None], n, **options)  # type: ignore[arg-type]
    ids: list[int] = hits.ids.tolist()
    return ids


class ItemIndexTests(WithTables):
    """``method`` is None for the index in memory."""

    method: str | None

    async def index(self, database: Database) -> ItemIndex:
        if self.method is None:
            rows = await SqlEmbeddingStore(database, SONGS).load(EMBEDDER.name)
            return InMemoryItemIndex(rows, EMBEDDER.name)
        provider = provider_on(database, self.method)
        await provider.load()
        return provider.current()

    async def test_search_finds_what_brute_force_finds(self, url: str, database: Database) -> None:
        vectors = vectors_of(N)
        await fill(url, database, vectors)
        index = await self.index(database)
        queries = np.concatenate([vectors[3:5] * 7, vectors[:1] + vectors[9:10]]).astype(np.float32)
        found = await index.search(queries, 20)
        for query, hits in zip(queries, found, strict=True):
            cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
            assert len(set(hits.ids.tolist())) == 20
            np.testing.assert_allclose(hits.scores, np.sort(cosines)[::-1][:20], atol=1e-3)
            np.testing.assert_allclose(hits.scores, cosines[hits.ids - 1], atol=1e-3)
            assert list(zip(-hits.scores, hits.ids, strict=True)) == sorted(zip(-hits.scores, hits.ids, strict=True))
            assert hits.ids.dtype == np.int64
            assert hits.scores.dtype == np.float32

    async def test_what_is_excluded_is_not_found_and_others_take_its_place(self, url: str, database: Database) -> None:
        vectors = vectors_of(N)
        await fill(url, database, vectors)
        index = await self.index(database)
        first = await ids_near(index, vectors[0], 10)
        rest = await ids_near(index, vectors[0], 10, excluded=[*first[:4], 10_000, -1])
        assert rest[:6] == first[4:]
        assert len(rest) == 10
        assert await ids_near(index, vectors[0], 10, excluded=range(1, N + 1)) == []

    @pytest.mark.parametrize(
        ("predicate", "keeps"),
        [
            (Predicate(), lambda n: True),
            (Predicate(genres=frozenset({"ROCK"})), lambda n: n % 5 == 0),
            (Predicate(genres=frozenset({"pop"})), lambda n: n % 5 in (0, 1)),
            (Predicate(genres=frozenset({"Hip Hop", "unheard"})), lambda n: n % 5 == 2),
            (Predicate(genres=frozenset({"unheard"})), lambda n: False),
            (Predicate(moods=frozenset({"calm"})), lambda n: n % 3 != 1),
            (Predicate(languages=frozenset({"en"})), lambda n: n // 2 % 3 == 1),
            (
                Predicate(genres=frozenset({"jazz"}), moods=frozenset({"wild"}), languages=frozenset({"KO"})),
                lambda n: n % 5 == 2 and n % 3 == 2 and n // 2 % 3 == 0,
            ),
        ],
    )
    async def test_a_predicate_keeps_its_items(
        self, url: str, database: Database, predicate: Predicate, keeps: Callable[[int], bool]
    ) -> None:
        vectors = vectors_of(N)
        await fill(url, database, vectors)
        found = await ids_near(await self.index(database), vectors[0], N, predicate=predicate, excluded=[5])
        assert sorted(found) == [n for n in range(1, N + 1) if keeps(n) and n != 5]

    async def test_equal_vectors_tie_by_id(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(1).repeat(30, axis=0))
        assert await ids_near(await self.index(database), vectors_of(1)[0], 12) == list(range(1, 13))

    @pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
    async def test_a_query_without_direction_finds_nothing_and_spoils_no_other(
        self, url: str, database: Database, bad: float
    ) -> None:
        await fill(url, database, vectors_of(5))
        queries = np.stack([np.full(DIM, bad, dtype=np.float32), vectors_of(5)[2]])
        nothing, found = await (await self.index(database)).search(queries, 2)
        assert (len(nothing.ids), len(nothing.scores), found.ids[0]) == (0, 0, 3)

    async def test_an_empty_index_finds_nothing_and_holds_nothing(self, database: Database) -> None:
        index = await self.index(database)
        assert len(index) == 0
        assert await ids_near(index, vectors_of(1)[0]) == []
        assert (await index.popular(5, max_per_genre=1)).tolist() == []
        assert (await index.vectors([1, 2]))[0].tolist() == []
        assert await index.facts([]) == []

    async def test_who_asks_for_nothing_gets_nothing(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(3))
        index = await self.index(database)
        assert await ids_near(index, vectors_of(1)[0], 0) == []
        assert (await index.popular(0)).tolist() == []
        assert await index.search(np.zeros((0, DIM), dtype=np.float32), 3) == []

    async def test_vectors_come_in_the_order_asked_without_the_unknown(self, url: str, database: Database) -> None:
        vectors = vectors_of(9)
        await fill(url, database, vectors)
        ids, found = await (await self.index(database)).vectors([7, 99, 2, 7, -5])
        assert ids.tolist() == [7, 2, 7]
        np.testing.assert_allclose(found, vectors[[6, 1, 6]], atol=2e-3)
        assert ids.dtype == np.int64
        assert found.dtype == np.float32

    async def test_a_vector_of_another_length_is_left_out_and_told_of(self, url: str, database: Database) -> None:
        vectors = vectors_of(30)
        await fill(url, database, vectors)
        execute(url, "UPDATE songs_ai_embedding SET vector_bytes = 'ab' WHERE item_id = 7")
        with capture_logs() as logs:
            index = await self.index(database)
        assert [each["item_ids"] for each in logs if each["event"] == LogEvent.EMBEDDINGS_LEFT_OUT] == [[7]]
        assert (await index.vectors([7, 8]))[0].tolist() == [8]
        assert sorted(await ids_near(index, vectors[6], 40)) == [n for n in range(1, 31) if n != 7]

    async def test_a_vector_that_becomes_one_of_another_length_later_is_not_found(
        self, url: str, database: Database
    ) -> None:
        vectors = vectors_of(30)
        await fill(url, database, vectors)
        index = await self.index(database)
        if isinstance(index, DatabaseItemIndex):
            execute(url, "UPDATE songs_ai_embedding SET vector_bytes = 'ab' WHERE item_id = 7")
            assert (await index.vectors([7, 8]))[0].tolist() == [8]
            assert 7 not in await ids_near(index, vectors[6], 20)

    async def test_facts_come_in_the_order_asked(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(9))
        give_features(url, 5, popularity=0.5)
        give_features(url, 8, popularity=0.25)
        assert await (await self.index(database)).facts([8, 5]) == [
            ItemFacts(8, "Artist 1", (), ("wild", "calm"), 0.25),
            ItemFacts(5, "Artist 5", ("Rock", "pop"), ("wild", "calm"), 0.5),
        ]

    async def test_the_most_popular_come_first_and_few_of_one_genre(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(12))
        for song_id, popularity in ((1, 0.9), (2, 0.8), (6, 0.9), (11, 0.7), (7, 0.1)):
            give_features(url, song_id, popularity=popularity)
        like(url, 9, 3)
        index = await self.index(database)
        assert (await index.popular(6)).tolist() == [1, 6, 2, 11, 3, 7]
        assert (await index.popular(4, excluded=[6, 2, 99])).tolist() == [1, 11, 3, 7]
        # Songs 1, 6 and 11 are pop; 3 and 8 have no genre, and are not limited.
        assert (await index.popular(7, max_per_genre=1)).tolist() == [1, 2, 3, 4, 5, 8]
        assert len(await index.popular(99)) == 12

    async def test_inactive_items_are_not_there(self, url: str, database: Database) -> None:
        vectors = vectors_of(6)
        await fill(url, database, vectors)
        update_song(url, 3, is_active=False)
        index = await self.index(database)
        assert len(index) == 5
        assert 3 not in await ids_near(index, vectors[2], 6)
        assert 3 not in await index.popular(6)
        assert (await index.vectors([3, 4]))[0].tolist() == [4]

    async def test_the_version_is_that_of_the_store(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(3))
        index = await self.index(database)
        assert index.version == await SqlEmbeddingStore(database, SONGS).version(EMBEDDER.name)
        assert index.embedder_name == EMBEDDER.name


class TestIndexInMemory(OnMySql, ItemIndexTests):
    method = None


class DatabaseIndexTests(ItemIndexTests):
    """What is so inside a database alone."""

    method: str

    async def test_enough_true_neighbours_are_found_among_thousands(self, url: str, database: Database) -> None:
        vectors, observer = vectors_of(6000), Noted()
        await fill_plainly(url, database, vectors)
        provider = provider_on(database, self.method, observer=observer)
        await provider.load()
        index = provider.current()
        queries = np.concatenate([vectors[::400], vectors[::400] + vectors[1::400]])
        found = await index.search(queries, 200, excluded=[1, 2, 3])
        shares = []
        for query, hits in zip(queries, found, strict=True):
            true = set((np.argsort(-(vectors[3:] @ query))[:200] + 4).tolist())
            shares.append(len(true & set(hits.ids.tolist())) / 200)
        assert np.mean(shares) >= 0.98
        assert observer.recalls == [index.recall]
        assert observer.recalls[0] >= 0.98
        assert index.width < 6000
        assert index.kind in index.why or "index" in index.why

    async def test_more_than_usual_can_be_asked_for(self, url: str, database: Database) -> None:
        vectors = vectors_of(6000)
        await fill_plainly(url, database, vectors)
        found = await ids_near(await self.index(database), vectors[0], 3000)
        true = set((np.argsort(-(vectors @ vectors[0]))[:3000] + 1).tolist())
        assert len(found) == 3000
        assert len(true & set(found)) >= 2850

    async def test_what_is_deactivated_is_gone_at_once(self, url: str, database: Database) -> None:
        vectors = vectors_of(9)
        await fill(url, database, vectors)
        index = await self.index(database)
        update_song(url, 4, is_active=False)
        execute(url, "DELETE FROM song WHERE song_id = 5")
        found = await ids_near(index, vectors[3], 9)
        assert sorted(found) == [1, 2, 3, 6, 7, 8, 9]
        assert not {4, 5} & set((await index.popular(9)).tolist())

    async def test_facts_of_what_is_gone_are_its_id_alone(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(3))
        index = await self.index(database)
        execute(url, "DELETE FROM song WHERE song_id = 2")
        assert (await index.facts([2, 1]))[0] == ItemFacts(2)

    async def test_changes_are_followed_row_by_row(self, url: str, database: Database) -> None:
        vectors, more = vectors_of(20), vectors_of(4, seed=9)
        await fill(url, database, vectors)
        provider = provider_on(database, self.method)
        await provider.load()
        insert_songs(url, {"song_id": 21, "genre": "polka"})
        await save_vectors(database, [21, 6], more[:2])
        update_song(url, 7, genre="polka, ska", lang="eo")
        update_song(url, 8, is_active=False)
        await SqlEmbeddingStore(database, SONGS).delete(EMBEDDER.name, [9])
        like(url, 1, 10)
        with statements_sent() as statements:
            await provider.refresh()
        assert sum(statement.startswith("REPLACE INTO songs_ai_item_code") for statement in statements) == 1
        index = provider.current()
        assert len(index) == 19
        assert (await ids_near(index, more[0], 1), await ids_near(index, more[1], 1)) == ([21], [6])
        polka = Predicate(genres=frozenset({"Polka"}), languages=frozenset())
        assert sorted(await ids_near(index, more[0], predicate=polka)) == [7, 21]
        assert not {8, 9} & set(await ids_near(index, vectors[0], 30))
        assert (await index.popular(1)).tolist() == [10]

    async def test_where_nothing_has_changed_nothing_is_written(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(20))
        await self.index(database)
        with statements_sent() as statements:
            await self.index(database)
        assert not [each for each in statements if each.split()[0] in ("INSERT", "REPLACE", "DELETE", "CREATE")]

    async def test_workers_that_start_at_once_share_one_generation(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(30))
        providers = [provider_on(database, self.method) for _ in range(3)]
        await asyncio.gather(*(provider.load() for provider in providers))
        assert [len(provider.current()) for provider in providers] == [30, 30, 30]
        with connection(url) as opened:
            assert opened.exec_driver_sql("SELECT COUNT(*) FROM songs_ai_item_coder").scalar_one() == 1

    async def test_a_build_that_was_cut_off_is_neither_used_nor_kept(
        self, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(url, database, vectors_of(30))
        with monkeypatch.context() as patched:
            patched.setattr(item_codes._Work, "tuned", _cut_off)
            with pytest.raises(DependencyUnavailable, match="cut off"):
                await self.index(database)
        index = await self.index(database)
        assert len(await ids_near(index, vectors_of(30)[0], 30)) == 30
        with connection(url) as opened:
            assert opened.exec_driver_sql("SELECT COUNT(*) FROM songs_ai_item_coder").scalar_one() == 1
            assert opened.exec_driver_sql("SELECT COUNT(*) FROM songs_ai_item_code").scalar_one() == 30

    async def test_a_catalogue_that_has_grown_is_searched_as_well_as_before(
        self, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(item_codes, "MIN_WIDTH", 100)
        vectors = vectors_of(900)
        await fill_plainly(url, database, vectors[:300])
        execute(url, "INSERT INTO song (song_id, is_active) SELECT song_id + 300, 1 FROM song")
        execute(url, "INSERT INTO song (song_id, is_active) SELECT song_id + 600, 1 FROM song WHERE song_id <= 300")
        provider = provider_on(database, self.method)
        await provider.load()
        before = provider.current()
        await save_vectors(database, range(301, 901), vectors[300:])
        await provider.refresh()
        assert len(provider.current()) == 900
        assert provider.current().recall >= 0.98
        # A job that began before goes on with what it has.
        assert len(await ids_near(before, vectors[0], 200)) == 200

    async def test_another_embedder_is_searched_by_itself(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(5))
        await save_vectors(database, [1, 2], vectors_of(2, seed=5), name="other-1")
        await provider_on(database, self.method).load()
        provider = provider_on(database, self.method, embedder=GivenEmbedder(DIM, "other-1"))
        await provider.load()
        assert (len(provider.current()), provider.current().embedder_name) == (2, f"other-1-{DIM}")
        assert sorted(await ids_near(provider.current(), vectors_of(1)[0])) == [1, 2]

    async def test_a_worker_waits_no_longer_than_it_should_for_anothers_build(
        self, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(item_codes, "_LOCK_WAIT_S", 0)
        provider = provider_on(database, self.method)
        async with database.connect() as other, item_codes._alone(other):
            with pytest.raises(DependencyUnavailable, match="another worker"):
                await provider.load()
        with pytest.raises(DependencyUnavailable, match="not loaded yet"):
            provider.current()
        assert provider.age_s is None
        await provider.load()
        assert provider.age_s is not None

    async def test_new_items_are_embedded_before_they_are_looked_for(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(3))
        n_calls = 0

        async def embed() -> None:
            nonlocal n_calls
            n_calls += 1
            await save_vectors(database, [4], vectors_of(4)[3:])

        provider = provider_on(database, self.method, before_load=embed)
        await provider.load()
        insert_songs(url, {"song_id": 4})
        running = asyncio.create_task(provider.run())
        await until(lambda: _holds(provider, 4))
        running.cancel()
        assert n_calls >= 1

    async def test_an_index_without_items_is_refreshed_at_once(self, url: str, database: Database) -> None:
        provider = provider_on(database, self.method, refresh_s=3600)
        await provider.load()
        assert not len(provider.current())
        await fill(url, database, vectors_of(3))
        running = asyncio.create_task(provider.run())
        await until(lambda: _holds(provider, 3))
        running.cancel()


class TestSignCodes(OnMySql, DatabaseIndexTests):
    method = SIGN_CODES

    async def test_what_a_predicate_keeps_is_found_though_all_of_it_is_far_away(
        self, url: str, database: Database
    ) -> None:
        vectors = clustered_rows(8000, DIM, size=1000)
        await fill_plainly(url, database, vectors)
        far = np.flatnonzero(vectors @ vectors[0] < np.median(vectors @ vectors[0]))
        execute(url, f"UPDATE song SET genre = 'far' WHERE song_id IN ({', '.join(map(str, far + 1))})")
        index = await self.index(database)
        found = await ids_near(index, vectors[0], 200, predicate=Predicate(genres=frozenset({"far"})))
        true = far[np.argsort(-(vectors[far] @ vectors[0]))[:200]] + 1
        assert len(set(found) & set(true.tolist())) >= 196

    async def test_the_database_reckons_the_distances_that_the_coder_means(self, url: str, database: Database) -> None:
        vectors = vectors_of(200)
        await fill_plainly(url, database, vectors)
        provider = provider_on(database, self.method)
        await provider.load()
        generation = provider.current()._prepared.generation
        assert generation.coder is not None
        question = generation.coder.question(vectors[5])
        async with database.connect() as opened:
            found = (await opened.execute(by_signs(generation.number, question, 200, (), None))).scalars().all()
        distances = [question.distance(code) for code in generation.coder.codes(vectors)]
        assert list(found) == (np.argsort(distances, kind="stable") + 1).tolist()


class TestVectorIndex(OnVectorIndex, DatabaseIndexTests):
    method = NATIVE

    async def test_it_is_what_such_a_server_searches_by(self, url: str, database: Database) -> None:
        await fill(url, database, vectors_of(3))
        provider = provider_on(database, None)
        await provider.load()
        assert provider.current().kind == NATIVE
        assert "has a vector index" in provider.current().why

    async def test_signs_are_no_lack_of_the_server_where_they_were_asked_for(self, database: Database) -> None:
        provider = provider_on(database, SIGN_CODES)
        await provider.load()
        assert provider.current().why.startswith("since signs were asked for, not the vector index; ")

    async def test_a_vector_without_direction_does_not_spoil_the_graph(self, url: str, database: Database) -> None:
        vectors = vectors_of(6000)
        vectors[17] = 0
        await fill_plainly(url, database, vectors)
        provider = provider_on(database, self.method)
        await provider.load()
        assert provider.current().recall >= 0.98
        assert 18 not in await ids_near(provider.current(), vectors[0], 20)

    async def test_going_back_takes_its_tables_away_too(self, url: str) -> None:
        migrations.upgrade(url)
        execute(url, "CREATE TABLE songs_ai_item_vector_7 (item_id BIGINT)")
        migrations.downgrade(url)
        with connection(url) as opened:
            assert not [name for name in sa.inspect(opened).get_table_names() if "vector" in name]


class AccountOfItsOwn:
    """A database account that may do less than the tests may."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._admin, self._database = url, parsed.database
        self.name = f"w_{uuid.uuid4().hex[:12]}"
        with connection(url) as opened:
            # Where the server has anonymous accounts of localhost, they go before one of everywhere.
            host = opened.exec_driver_sql("SELECT SUBSTRING_INDEX(USER(), '@', -1)").scalar_one()
        self._account = f"'{self.name}'@'{host}'"
        execute(url, f"CREATE USER {self._account} IDENTIFIED BY 'secret'")
        self.url = parsed.set(username=self.name, password="secret").render_as_string(hide_password=False)

    def may(self, privileges: str, table: str = "*") -> None:
        """Grant ``privileges``."""
        execute(self._admin, f"GRANT {privileges} ON `{self._database}`.{table} TO {self._account}")

    def drop(self) -> None:
        """Take it away."""
        execute(self._admin, f"DROP USER {self._account}")


@contextmanager
def closed_database(server_url: str) -> Iterator[str]:
    """A database of a name that says nothing: MariaDB lets every account do all in those that begin with ``test_``."""
    url = make_url(server_url).set(database=f"songs_ai_{uuid.uuid4().hex[:12]}").render_as_string(hide_password=False)
    recreate_database(url)
    try:
        yield url
    finally:
        execute(url, f"DROP DATABASE {make_url(url).database}")


@pytest.fixture
def account(url: str) -> Iterator[AccountOfItsOwn]:
    made = AccountOfItsOwn(url)
    yield made
    made.drop()


@pytest_asyncio.fixture
async def limited(account: AccountOfItsOwn) -> AsyncIterator[Database]:
    """The database, for the account."""
    async with open_database(account.url, pool_size=2, timeout_s=10) as opened:
        yield opened


class OnClosedVectorIndex(OnVectorIndex):
    """As ``OnVectorIndex``, where accounts may do what they are granted."""

    @pytest.fixture
    def url(self, vector_url: str) -> Iterator[str]:
        with closed_database(vector_url) as url:
            yield url


WRITES = "SELECT, INSERT, UPDATE, DELETE"


class TestAccountOnVectorIndex(OnClosedVectorIndex, WithTables):
    """What becomes of it where the server could, but the account may not."""

    async def prepared(self, database: Database, method: str | None = None) -> DatabaseItemIndex:
        provider = provider_on(database, method)
        await provider.load()
        return provider.current()

    @pytest.mark.parametrize(("further", "named"), [("", "CREATE, DROP"), (", CREATE", "DROP"), (", DROP", "CREATE")])
    async def test_who_may_not_make_its_table_searches_by_signs_and_says_why(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database, further: str, named: str
    ) -> None:
        vectors = vectors_of(30)
        await fill(url, database, vectors)
        account.may(WRITES + further)
        for _ in range(2):
            index = await self.prepared(limited)
            assert index.kind == SIGN_CODES
            assert f"{named} command denied to user '{account.name}'" in index.why
            assert "it takes SELECT, INSERT, DELETE, CREATE and DROP on the database" in index.why
            assert await ids_near(index, vectors[4], 1) == [5]
            assert generations(url) == [SIGN_CODES]
            assert vector_tables(url) == []

    async def test_it_searches_by_the_vector_index_as_soon_as_it_may(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        await fill(url, database, vectors_of(30))
        account.may(WRITES)
        assert (await self.prepared(limited)).kind == SIGN_CODES
        account.may("CREATE, DROP")
        # What an account may do with a database counts from its next connection on.
        async with open_database(account.url, pool_size=1, timeout_s=10) as again:
            index = await self.prepared(again)
        assert (index.kind, "has a vector index" in index.why) == (NATIVE, True)

    async def test_a_table_that_another_account_made_is_used_and_kept_up_to_date(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        await fill(url, database, vectors_of(30))
        await self.prepared(database)
        account.may(WRITES)
        await save_vectors(database, [7], vectors_of(1, seed=9))
        index = await self.prepared(limited)
        assert (index.kind, generations(url)) == (NATIVE, [NATIVE])
        assert await ids_near(index, vectors_of(1, seed=9)[0], 1) == [7]

    @pytest.mark.parametrize(
        ("hidden", "change", "named"),
        [
            ("SELECT", False, "SELECT command denied"),
            ("INSERT", True, "INSERT command denied"),
            ("DELETE", True, "DELETE command denied"),
        ],
    )
    async def test_anothers_table_that_it_may_not_use_in_full_is_left_alone(
        self,
        url: str,
        database: Database,
        account: AccountOfItsOwn,
        limited: Database,
        hidden: str,
        change: bool,
        named: str,
    ) -> None:
        await fill(url, database, vectors_of(30))
        await self.prepared(database)
        [vectors] = vector_tables(url)
        with connection(url) as opened:
            names = sa.inspect(opened).get_table_names()
        for name in names:
            of_vectors = ", ".join(each for each in ("SELECT", "INSERT", "DELETE") if each != hidden)
            account.may(of_vectors if name == vectors else WRITES, name)
        if change:
            await save_vectors(database, [7], vectors_of(1, seed=9))
        index = await self.prepared(limited)
        assert index.kind == SIGN_CODES
        assert f"{named} to user '{account.name}'" in index.why
        assert len(await ids_near(index, vectors_of(1, seed=9)[0], 30)) == 30
        assert (sorted(generations(url)), vector_tables(url)) == ([NATIVE, SIGN_CODES], [vectors])
        # The other account loses nothing by it, and what this one could not write is written by the other.
        others = await self.prepared(database)
        assert others.kind == NATIVE
        assert (await ids_near(others, vectors_of(1, seed=9)[0], 1) == [7]) is change

    async def test_generations_that_it_may_not_drop_stay_for_those_who_may(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        await fill(url, database, vectors_of(30))
        await self.prepared(database)
        execute(url, "UPDATE songs_ai_item_coder SET width = NULL")
        account.may(WRITES)
        assert (await self.prepared(limited)).kind == SIGN_CODES
        assert sorted(generations(url)) == [NATIVE, SIGN_CODES]
        await self.prepared(database)
        assert sorted(generations(url)) == [NATIVE, SIGN_CODES]
        assert len(vector_tables(url)) == 1

    async def test_who_insists_on_the_vector_index_is_told_what_is_missing(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        account.may(WRITES)
        with pytest.raises(ConfigurationError, match=r"^RETRIEVAL=database: CREATE, DROP command denied"):
            await self.prepared(limited, NATIVE)
        assert generations(url) == []


class TestAccount(WithTables):
    """Sign codes need no more than our own tables."""

    @pytest.fixture
    def url(self, mysql_url: str) -> Iterator[str]:
        with closed_database(mysql_url) as url:
            yield url

    async def test_an_account_that_may_only_write_rows_searches_by_signs(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        await fill(url, database, vectors_of(30))
        account.may(WRITES)
        provider = provider_on(limited, SIGN_CODES)
        await provider.load()
        assert await ids_near(provider.current(), vectors_of(30)[4], 1) == [5]

    async def test_an_account_that_may_only_read_is_told_what_is_missing(
        self, url: str, database: Database, account: AccountOfItsOwn, limited: Database
    ) -> None:
        await fill(url, database, vectors_of(30))
        account.may("SELECT")
        with pytest.raises(ConfigurationError, match=r"^RETRIEVAL=database: INSERT command denied .*item_coder"):
            await provider_on(limited, SIGN_CODES).load()


def generations(url: str) -> list[str]:
    """The methods of those that are kept, whether they are ready or not."""
    with connection(url) as opened:
        return list(opened.exec_driver_sql("SELECT method FROM songs_ai_item_coder ORDER BY generation").scalars())


def vector_tables(url: str) -> list[str]:
    with connection(url) as opened:
        return [name for name in sa.inspect(opened).get_table_names() if name.startswith("songs_ai_item_vector_")]


async def _cut_off(*_: object) -> None:
    raise DependencyUnavailable("mysql", "cut off")


async def _holds(provider: RefreshingDatabaseIndex, song_id: int) -> bool:
    return song_id in (await provider.current().vectors([song_id]))[0]


# --- which way ---


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ("11.8.6-MariaDB-0+deb13u1 from Debian", True),
        ("11.7.1-MariaDB", True),
        ("12.0.2-MariaDB-ubu2404-log", True),
        ("11.6.2-MariaDB", False),
        ("10.11.19-MariaDB-0+deb12u1", False),
        ("9.7.4-2", False),
        ("12.1.0", False),
        ("8.0.36-0ubuntu0.22.04.1", False),
    ],
)
def test_only_a_mariadb_that_is_new_enough_has_a_vector_index(version: str, has: bool) -> None:
    assert has_vector_index(version) is has


async def test_a_server_without_a_vector_index_is_searched_by_signs(mysql_url: str) -> None:
    if has_vector_index(server_version(mysql_url)):
        pytest.skip("this server has a vector index")
    create_all_tables(mysql_url)
    database = Database(mysql_url)
    provider = provider_on(database, None)
    await provider.load()
    await database.close()
    assert provider.current().kind == SIGN_CODES
    assert "has no vector index" in provider.current().why


async def test_sqlite_is_refused_naming_the_setting() -> None:
    database = Database("sqlite:///:memory:")
    with pytest.raises(ConfigurationError, match=r"^RETRIEVAL=database: .*SQLite.*RETRIEVAL=memory"):
        provider_on(database, None)
    await database.close()


def test_values_that_do_not_fit_are_left_out_whole() -> None:
    assert comma_separated(["Rock", "STRASSE", "Straße"]) == "rock,strasse,strasse"
    assert comma_separated(["a" * 600, "b" * 600, "c"]) == "a" * 600 + ",c"
