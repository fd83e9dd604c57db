"""What members like, have and refuse, from the backend's rows and our events."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors import DependencyUnavailable
from models.catalogue import Interest, Listener
from services.database import Database
from services.listener_store import SqlListenerStore
from tests.support.catalogue import (
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    add_to_playlist,
    connection,
    like,
    record_event,
    statements_sent,
)

ME, ANOTHER = 2**53 + 1, 7
NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - as databases give it


def _s(at: datetime) -> float:
    return at.replace(tzinfo=UTC).timestamp()


def _hours(n: int) -> timedelta:
    return timedelta(hours=n)


class ListenerStoreTests(WithTables):
    async def test_an_unknown_member_has_nothing(self, url: str, database: Database) -> None:
        like(url, ANOTHER, 1)
        add_to_playlist(url, ANOTHER, 2)
        record_event(url, "e1", ANOTHER, 3, "dislike")
        assert await SqlListenerStore(database, SONGS).listener(ME) == Listener(member_id=ME)

    async def test_likes_come_newest_first_then_what_is_in_lists(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=NOON)
        like(url, ME, 2, at=NOON + _hours(1))
        like(url, ME, 3, at=None)
        add_to_playlist(url, ME, 9, 8)
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.interests == (
            Interest(2, 1.0, _s(NOON + _hours(1))),
            Interest(1, 1.0, _s(NOON)),
            Interest(3, 1.0, None),
            Interest(8, 0.5, None),
            Interest(9, 0.5, None),
        )
        assert listener.seen_ids == {1, 2, 3, 8, 9}

    async def test_an_item_stands_once_however_often_it_is_held(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=NOON)
        like(url, ME, 1, at=NOON + _hours(2))
        add_to_playlist(url, ME, 1, 2)
        add_to_playlist(url, ME, 2)
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.interests == (Interest(1, 1.0, _s(NOON + _hours(2))), Interest(2, 0.5))

    async def test_a_dislike_refuses_an_item_and_keeps_it_seen(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=NOON)
        add_to_playlist(url, ME, 2)
        for item_id in (1, 2, 3):
            record_event(url, f"e{item_id}", ME, item_id, "dislike", at=NOON + _hours(1))
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener == Listener(member_id=ME, seen_ids=frozenset({1, 2}), disliked_ids=frozenset({1, 2, 3}))

    async def test_a_like_after_a_dislike_wins(self, url: str, database: Database) -> None:
        record_event(url, "e1", ME, 1, "dislike", at=NOON)
        like(url, ME, 1, at=NOON + _hours(1))
        record_event(url, "e2", ME, 2, "dislike", at=NOON)
        record_event(url, "e3", ME, 2, "like", at=NOON + _hours(2))
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert [interest.item_id for interest in listener.interests] == [2, 1]
        assert listener.disliked_ids == frozenset()

    async def test_a_like_of_unknown_date_loses_to_a_dislike(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=None)
        record_event(url, "e1", ME, 1, "dislike", at=NOON)
        assert (await SqlListenerStore(database, SONGS).listener(ME)).disliked_ids == {1}

    async def test_a_liking_event_counts_before_the_backend_has_its_row(self, url: str, database: Database) -> None:
        record_event(url, "e1", ME, 5, "like", at=NOON)
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.interests == (Interest(5, 1.0, _s(NOON)),)
        assert listener.seen_ids == {5}

    @pytest.mark.parametrize("undo", ["unlike", "forget"])
    @pytest.mark.parametrize("done", ["like", "dislike"])
    async def test_what_was_said_can_be_taken_back(self, url: str, database: Database, done: str, undo: str) -> None:
        record_event(url, "e2", ME, 5, undo, at=NOON + _hours(1))
        record_event(url, "e1", ME, 5, done, at=NOON)
        assert await SqlListenerStore(database, SONGS).listener(ME) == Listener(member_id=ME)

    async def test_forgetting_no_item_forgets_all_that_was_said_before(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=NOON)
        record_event(url, "e1", ME, 2, "dislike", at=NOON)
        record_event(url, "e2", ME, 3, "like", at=NOON)
        record_event(url, "e3", ME, None, "forget", at=NOON + _hours(1))
        record_event(url, "e4", ME, 4, "dislike", at=NOON + _hours(2))
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.seen_ids == {1}
        assert listener.disliked_ids == {4}

    async def test_events_are_ordered_to_the_microsecond(self, url: str, database: Database) -> None:
        record_event(url, "e2", ME, 1, "like", at=NOON + timedelta(microseconds=2))
        record_event(url, "e1", ME, 1, "dislike", at=NOON + timedelta(microseconds=1))
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.seen_ids == {1}
        assert listener.disliked_ids == frozenset()

    @pytest.mark.parametrize("kind", ["play", "skip", "repeat", "rating", "playlist_add"])
    async def test_other_events_neither_like_nor_refuse(self, url: str, database: Database, kind: str) -> None:
        record_event(url, "e1", ME, 1, kind)
        assert await SqlListenerStore(database, SONGS).listener(ME) == Listener(member_id=ME)

    async def test_all_comes_in_one_round_trip(self, url: str, database: Database) -> None:
        like(url, ME, 1)
        store = SqlListenerStore(database, SONGS)
        await store.listener(ME)
        with statements_sent() as statements:
            await store.listener(ME)
        assert len(statements) == 1

    async def test_a_profile_without_lists_and_dates_is_served(self, url: str, database: Database) -> None:
        like(url, ME, 2, 1)
        add_to_playlist(url, ME, 3)
        likes = SONGS.likes.model_copy(update={"created_at": None, "weight": 2.0})
        profile = SONGS.model_copy(update={"lists": None, "likes": likes})
        listener = await SqlListenerStore(database, profile).listener(ME)
        assert listener.interests == (Interest(1, 2.0), Interest(2, 2.0))
        assert listener.seen_ids == {1, 2}

    async def test_rows_that_name_no_item_are_passed_over(self, url: str, database: Database) -> None:
        record_event(url, "e1", ME, None, "like")
        assert await SqlListenerStore(database, SONGS).listener(ME) == Listener(member_id=ME)


class TestListenerStoreInMySql(OnMySql, ListenerStoreTests):
    async def test_the_zone_of_the_server_does_not_shift_instants(self, url: str, database: Database) -> None:
        with connection(url) as opened:
            opened.exec_driver_sql("SET time_zone = '+09:00'")
            opened.exec_driver_sql(
                f"INSERT INTO song_like (song_id, member_id, created_at) VALUES (1, {ME}, '2026-03-01 21:00:00')"
            )
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener.interests == (Interest(1, 1.0, _s(NOON)),)


class TestListenerStoreInSqlite(OnSqlite, ListenerStoreTests):
    pass


async def test_a_server_that_is_not_there_is_an_unavailable_dependency() -> None:
    database = Database("mysql://nobody@127.0.0.1:1/songs", timeout_s=1)
    with pytest.raises(DependencyUnavailable):
        await SqlListenerStore(database, SONGS).listener(ME)
    await database.close()
