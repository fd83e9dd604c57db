"""What has changed among the backend's items, told by their dates, their count and sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ports.arrays import Ids
from services.catalogue import SqlCatalogue
from services.database import Database
from services.item_changes import ItemsSummary, _sums, date_numbers
from tests.support.catalogue import (
    LONG_AGO,
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    execute,
    give_features,
    insert_songs,
    statements_sent,
    update_song,
)

UNDATED = SONGS.model_copy(update={"item": SONGS.item.model_copy(update={"modified_at": "no_such"})})


def summary_of(ids: Ids) -> ItemsSummary:
    return ItemsSummary(len(ids), *_sums(ids), None)


@given(st.sets(st.integers(1, 2**40), max_size=30), st.sets(st.integers(1, 2**40), max_size=30))
def test_a_summary_tells_sets_apart(one: set[int], other: set[int]) -> None:
    ids = np.array(sorted(other), np.int64)
    assert summary_of(np.array(sorted(one), np.int64)).tells_of(ids) == (one == other)


def test_the_summary_of_many_large_ids_does_not_overflow() -> None:
    ids = np.arange(10, dtype=np.int64) + 2**62
    assert summary_of(ids).tells_of(ids)
    assert not summary_of(ids).tells_of(ids + 1)


@pytest.mark.parametrize("values", [[None, LONG_AGO], [1700000000, 1700000001], ["2026", "2027"]])
def test_dates_of_any_kind_become_numbers_that_differ(values: list[object]) -> None:
    numbers = date_numbers(values)
    assert numbers[0] != numbers[1]
    assert date_numbers(values).tolist() == numbers.tolist()


class ItemChangesTests(WithTables):
    async def test_only_what_changed_is_told_though_all_have_one_date(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 30)))
        catalogue = SqlCatalogue(database, SONGS)
        mark = await catalogue.mark()
        update_song(url, 7, title_en="Other")
        insert_songs(url, {"song_id": 40}, {"song_id": 41, "is_active": False})
        execute(url, "UPDATE song SET is_active = 0 WHERE song_id = 9", "DELETE FROM song WHERE song_id = 11")
        found = await catalogue.changes(mark)
        assert (found.changed.tolist(), found.gone.tolist()) == ([7, 40], [9, 11])
        again = await catalogue.changes(found.mark)
        assert (again.changed.tolist(), again.gone.tolist()) == ([], [])

    async def test_all_ids_are_read_only_where_the_sums_do_not_add_up(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id} for song_id in range(1, 30)))
        catalogue = SqlCatalogue(database, SONGS)
        mark = await catalogue.mark()
        update_song(url, 7, is_active=False)
        with statements_sent() as statements:
            mark = (await catalogue.changes(mark)).mark
        explained = len(statements)
        execute(url, "DELETE FROM song WHERE song_id = 11")
        with statements_sent() as statements:
            assert (await catalogue.changes(mark)).gone.tolist() == [11]
        assert len(statements) <= explained + 1

    async def test_without_dates_what_comes_and_goes_is_told(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        catalogue = SqlCatalogue(database, UNDATED)
        mark = await catalogue.mark()
        execute(url, "DELETE FROM song WHERE song_id = 1")
        insert_songs(url, {"song_id": 3})
        found = await catalogue.changes(mark)
        assert (found.changed.tolist(), found.gone.tolist()) == ([3], [1])

    async def test_items_by_id_are_as_complete_as_those_of_the_stream(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": song_id, "title_en": f"Title {song_id}"} for song_id in (3, 1, 2)))
        give_features(url, 2, features={"energy": 0.5}, popularity=0.25)
        catalogue = SqlCatalogue(database, SONGS)
        streamed = [item async for batch in catalogue.stream() for item in batch]
        assert list(await catalogue.complete_items([3, 2, 1, 99])) == streamed


class TestItemChangesInMySql(OnMySql, ItemChangesTests):
    pass


class TestItemChangesInSqlite(OnSqlite, ItemChangesTests):
    pass
