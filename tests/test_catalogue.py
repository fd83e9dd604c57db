"""Items as the backend's table holds them, and what is said where it does not fit the profile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError
from models.catalogue import Item
from services.active_members import SqlActiveMembers
from services.catalogue import SqlCatalogue, parts
from services.database import Database, open_database
from services.embedding_store import SqlEmbeddingStore
from services.listener_store import SqlListenerStore
from services.schema import LazyTables, ProfileTables, own_metadata
from tests.support.backend_tables import backend_metadata
from tests.support.catalogue import (
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    create_backend_tables,
    execute,
    give_features,
    insert_songs,
    like,
    statements_sent,
)

SONG_ID = 9_007_199_254_740_993
FULL_SONG = {
    "song_id": SONG_ID,
    "tj_number": 68_001,
    "ky_number": None,
    "title_kr": "밤편지",
    "title_en": "Through the Night",
    "title_jp": "夜の手紙",
    "title_yomi": "よるのてがみ",
    "lang": "ko",
    "genre": "ballad, k-pop ,,ballad",
    "mood": "calm,tender",
    "artist": "IU",
    "artist_kr": "아이유",
    "lyrics_original": "never read",
}


def _changed(**item: object) -> CatalogueProfile:
    return SONGS.model_copy(update={"item": SONGS.item.model_copy(update=item)})


async def _streamed(catalogue: SqlCatalogue) -> dict[int, Item]:
    return {item.item_id: item async for batch in catalogue.stream() for item in batch}


class CatalogueTests(WithTables):
    async def test_an_item_holds_what_its_row_holds(self, url: str, database: Database) -> None:
        insert_songs(url, FULL_SONG)
        [item] = (await SqlCatalogue(database, SONGS).items([SONG_ID])).values()
        assert item.item_id == SONG_ID
        assert item.titles == {"ko": "밤편지", "en": "Through the Night", "ja": "夜の手紙"}
        assert (item.creator, item.creator_local, item.language) == ("IU", "아이유", "ko")
        assert item.genres == ("ballad", "k-pop")
        assert item.moods == ("calm", "tender")

    async def test_an_item_carries_the_columns_that_results_and_the_embedder_need(
        self, url: str, database: Database
    ) -> None:
        insert_songs(url, FULL_SONG)
        [item] = (await SqlCatalogue(database, SONGS).items([SONG_ID])).values()
        assert set(item.columns) == {*SONGS.group_fields, *SONGS.candidate_fields, *SONGS.item.text}
        assert item.columns["tj_number"] == 68_001
        assert item.columns["ky_number"] is None
        assert item.columns["title_yomi"] == "よるのてがみ"
        assert item.columns["genre"] == FULL_SONG["genre"]

    async def test_a_row_of_nulls_is_an_item_all_the_same(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "modified_at": None, "is_active": None})
        item = (await SqlCatalogue(database, SONGS).items([1]))[1]
        assert (item.titles, item.genres, item.moods, item.creator) == ({}, (), (), None)
        assert item.title("en") == "1"

    async def test_blank_text_is_no_text(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "  ", "title_kr": "제목", "artist": "", "lang": " "})
        item = (await SqlCatalogue(database, SONGS).items([1]))[1]
        assert (item.titles, item.creator, item.language) == ({"ko": "제목"}, None, None)

    async def test_unknown_and_inactive_items_are_left_out(self, url: str, database: Database) -> None:
        insert_songs(
            url,
            {"song_id": 1, "is_active": True},
            {"song_id": 2, "is_active": False},
            {"song_id": 3, "is_active": None},
        )
        assert set(await SqlCatalogue(database, SONGS).items([1, 2, 3, 4])) == {1, 3}

    async def test_all_items_come_in_one_round_trip(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 20)))
        catalogue = SqlCatalogue(database, SONGS)
        await catalogue.check()
        with statements_sent() as statements:
            await catalogue.items(range(1, 30))
        assert len(statements) == 1

    async def test_no_ids_need_no_database(self, database: Database) -> None:
        await database.close()
        assert await SqlCatalogue(database, SONGS).items([]) == {}

    async def test_ids_may_be_given_twice_and_as_any_collection(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        catalogue = SqlCatalogue(database, SONGS)
        assert set(await catalogue.items([1, 1, 2])) == {1, 2}
        assert set(await catalogue.items({2: "x"}.keys())) == {2}

    async def test_only_the_stream_looks_up_features_and_popularity(self, url: str, database: Database) -> None:
        insert_songs(url, FULL_SONG)
        give_features(url, SONG_ID, features={"valence": 0.25, "tempo": 98}, popularity=0.75)
        catalogue = SqlCatalogue(database, SONGS)
        [complete] = (await _streamed(catalogue)).values()
        assert complete.features == {"valence": 0.25, "tempo": 98.0}
        assert complete.popularity == pytest.approx(0.75)
        assert replace(complete, features={}, popularity=0.0) == (await catalogue.items([SONG_ID]))[SONG_ID]

    async def test_an_item_without_features_and_likes_is_streamed_too(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1})
        [item] = (await _streamed(SqlCatalogue(database, SONGS))).values()
        assert (item.features, item.popularity) == ({}, 0.0)

    async def test_likes_make_popularity_where_no_source_gave_more(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in (1, 2, 3, 4)))
        like(url, 1, *[1] * 30)
        like(url, 1, 2, 4)
        give_features(url, 3, popularity=0.01)
        give_features(url, 4, popularity=0.9)
        items = await _streamed(SqlCatalogue(database, SONGS))
        assert sorted(items, key=lambda item_id: -items[item_id].popularity) == [4, 1, 2, 3]
        assert all(0 <= item.popularity <= 1 for item in items.values())

    async def test_the_stream_holds_all_active_items_in_order_whatever_the_batches(
        self, url: str, database: Database
    ) -> None:
        ids = [-4, 0, 1, 2, 3, 7, 8, 11, 12, 13]
        execute(url, *(["SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"] if database.name == "mysql" else []))
        insert_songs(url, *({"song_id": song_id, "is_active": song_id % 4 != 3} for song_id in ids if song_id))
        expected = [song_id for song_id in ids if song_id and song_id % 4 != 3]
        for batch_size in (1, 3, 100):
            batches = [batch async for batch in SqlCatalogue(database, SONGS).stream(batch_size)]
            assert [item.item_id for batch in batches for item in batch] == expected
            assert all(0 < len(batch) <= batch_size for batch in batches)

    async def test_the_stream_of_an_empty_catalogue_is_empty(self, database: Database) -> None:
        assert [batch async for batch in SqlCatalogue(database, SONGS).stream()] == []

    async def test_a_catalogue_that_fits_its_profile_passes_the_check(self, database: Database) -> None:
        await SqlCatalogue(database, SONGS).check()

    async def test_a_missing_item_table_is_named(self, database: Database) -> None:
        with pytest.raises(ConfigurationError, match=r"'songs'.*no table 'tune'"):
            await SqlCatalogue(database, _changed(table="tune")).check()

    async def test_a_missing_column_is_named(self, database: Database) -> None:
        with pytest.raises(ConfigurationError, match=r"table 'song' has no column 'composer'"):
            await SqlCatalogue(database, _changed(creator="composer")).check()

    async def test_a_missing_table_of_likes_or_lists_is_named(self, url: str, database: Database) -> None:
        for table in ("playlist_song", "song_like"):
            execute(url, f"DROP TABLE {table}")
            with pytest.raises(ConfigurationError, match=f"no table '{table}'"):
                await SqlCatalogue(database, SONGS).check()

    async def test_a_missing_column_of_the_likes_is_named(self, database: Database) -> None:
        likes = SONGS.likes.model_copy(update={"member": "listener_id"})
        with pytest.raises(ConfigurationError, match=r"table 'song_like' has no column 'listener_id'"):
            await SqlCatalogue(database, SONGS.model_copy(update={"likes": likes})).check()

    async def test_missing_tables_of_ours_name_the_command_that_makes_them(self, url: str, database: Database) -> None:
        execute(url, "DROP TABLE songs_ai_item_feature")
        with pytest.raises(ConfigurationError, match=r"songs_ai_item_feature.*python main\.py migrate"):
            await SqlCatalogue(database, SONGS).check()

    async def test_a_site_without_the_optional_columns_has_all_items_active(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "One", "is_active": False})
        catalogue = SqlCatalogue(database, SONGS)
        assert await catalogue.items([1]) == {}
        execute(url, "ALTER TABLE song DROP COLUMN modified_at")
        await catalogue.check()
        profile = _changed(active="no_such_column", modified_at="no_such_column")
        assert set(await SqlCatalogue(database, profile).items([1])) == {1}

    async def test_what_is_checked_again_is_looked_up_again(self, url: str, database: Database) -> None:
        catalogue = SqlCatalogue(database, SONGS)
        await catalogue.check()
        execute(url, "DROP TABLE song_like")
        with pytest.raises(ConfigurationError, match="song_like"):
            await catalogue.check()

    async def test_a_profile_without_lists_and_dates_is_served(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "One"})
        likes = SONGS.likes.model_copy(update={"created_at": None})
        profile = SONGS.model_copy(update={"lists": None, "likes": likes})
        assert set(await SqlCatalogue(database, profile).items([1])) == {1}

    async def test_members_with_the_newest_likes_are_the_active_ones(self, url: str, database: Database) -> None:
        like(url, 1, 10, at=datetime(2026, 1, 5))  # noqa: DTZ001
        like(url, 2, 10, 11, 12, at=datetime(2026, 1, 1))  # noqa: DTZ001
        like(url, 3, 10, at=datetime(2026, 1, 9))  # noqa: DTZ001
        like(url, 1, 11, at=datetime(2026, 1, 2))  # noqa: DTZ001
        members = SqlActiveMembers(database, SONGS)
        assert list(await members.active_member_ids(10)) == [3, 1, 2]
        assert list(await members.active_member_ids(1)) == [3]
        assert list(await members.active_member_ids(1, 1)) == [1]
        assert list(await members.active_member_ids(10, 2)) == [2]
        assert list(await members.active_member_ids(10, 3)) == []

    async def test_without_dates_the_members_with_the_most_likes_are_the_active_ones(
        self, url: str, database: Database
    ) -> None:
        like(url, 1, 10)
        like(url, 2, 10, 11, 12)
        likes = SONGS.likes.model_copy(update={"created_at": None})
        members = SqlActiveMembers(database, SONGS.model_copy(update={"likes": likes}))
        assert list(await members.active_member_ids(10)) == [2, 1]


class StatementTests(WithTables):
    """Statements about the tables, which are made once."""

    async def test_a_statement_is_made_once_and_anew_when_the_tables_have_been_looked_up_anew(
        self, url: str, database: Database
    ) -> None:
        made = []

        def build(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[int]:
            made.append(tables)
            return sa.select(sa.func.count()).select_from(tables.item)

        tables = LazyTables(database, SONGS)
        assert await tables.statement(build) is await tables.statement(build)
        assert made == [await tables.get()]
        await tables.check()
        await tables.statement(build)
        assert made[1:] == [await tables.get()]


class TestStatementsInMySql(OnMySql, StatementTests):
    pass


class TestStatementsInSqlite(OnSqlite, StatementTests):
    pass


class TestCatalogueInMySql(OnMySql, CatalogueTests):
    @pytest.mark.parametrize("kind", ["BIT(1)", "TINYINT(1)", "BOOLEAN", "TINYINT"])
    async def test_active_may_be_any_kind_of_flag(self, url: str, database: Database, kind: str) -> None:
        execute(url, f"ALTER TABLE song MODIFY is_active {kind}")
        insert_songs(url, {"song_id": 1}, {"song_id": 2, "is_active": False}, {"song_id": 3, "is_active": None})
        assert set(await SqlCatalogue(database, SONGS).items([1, 2, 3])) == {1, 3}

    async def test_columns_of_any_type_come_out_as_json_can_say_them(self, url: str, database: Database) -> None:
        execute(
            url,
            "ALTER TABLE song ADD price DECIMAL(6,2), ADD whole DECIMAL(20,0), ADD released DATE, ADD raw VARBINARY(9)",
        )
        insert_songs(url, {"song_id": 1})
        execute(url, "UPDATE song SET price = 1.25, whole = 12345678901234567890, released = '2020-02-03', raw = 'abc'")
        profile = _changed(passthrough=("price", "whole", "released", "raw"))
        columns = (await SqlCatalogue(database, profile).items([1]))[1].columns
        assert [columns[name] for name in ("price", "whole", "released", "raw")] == [
            1.25,
            12_345_678_901_234_567_890,
            "2020-02-03",
            "abc",
        ]

    async def test_an_account_that_may_only_read_the_backends_tables_is_enough(
        self, url: str, database: Database
    ) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "One", "is_active": None})
        like(url, 5, 1)
        with _reader_account(url) as reader_url:
            async with open_database(reader_url, pool_size=1, timeout_s=5) as as_reader:
                catalogue, embeddings = SqlCatalogue(as_reader, SONGS), SqlEmbeddingStore(as_reader, SONGS)
                await catalogue.check()
                assert set(await catalogue.items([1])) == {1}
                assert (await SqlListenerStore(as_reader, SONGS).listener(5)).seen_ids == {1}
                await embeddings.save("e", np.array([1]), np.ones((1, 64), dtype=np.float32), [b"hash"])
                assert (await embeddings.load("e")).ids.tolist() == [1]
                await embeddings.delete("e", [1])


@contextmanager
def _reader_account(url: str) -> Iterator[str]:
    """An account that may read the backend's tables, and read and write ours."""
    name = f"reader_{uuid4().hex[:8]}"
    # Both, since an anonymous account of this host, where there is one, would be taken before one of any host.
    accounts = [f"'{name}'@'%%'", f"'{name}'@'localhost'"]
    execute(
        url,
        *(f"CREATE USER {account} IDENTIFIED BY 'Read-0nly'" for account in accounts),
        *(f"GRANT SELECT ON {table} TO {account}" for table in backend_metadata.tables for account in accounts),
        *(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {account}"
            for table in own_metadata.tables
            for account in accounts
        ),
    )
    try:
        account_url = sa.make_url(url).set(username=name, password="Read-0nly")
        yield account_url.render_as_string(hide_password=False)
    finally:
        execute(url, *(f"DROP USER {account}" for account in accounts))


class TestCatalogueInSqlite(OnSqlite, CatalogueTests):
    pass


async def test_the_first_look_at_an_unmigrated_database_names_the_command(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/bare.db"
    create_backend_tables(url)
    database = Database(url)
    with pytest.raises(ConfigurationError, match=r"python main\.py migrate"):
        await SqlCatalogue(database, SONGS).items([1])
    await database.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ()),
        ("", ()),
        (" , ,", ()),
        ("rock", ("rock",)),
        ("rock,pop , rock", ("rock", "pop")),
        ("록,ポップ", ("록", "ポップ")),
    ],
)
def test_comma_separated_values_are_trimmed_and_stand_once(text: str | None, expected: tuple[str, ...]) -> None:
    assert parts(text) == expected
