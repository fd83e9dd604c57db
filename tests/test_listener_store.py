"""What members like, have and refuse, from the backend's rows and our events."""

from dataclasses import replace
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
    execute,
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
        assert listener == Listener(
            member_id=ME,
            seen_ids=frozenset({1, 2}),
            disliked_ids=frozenset({1, 2, 3}),
            reactions=tuple(Interest(item_id, -1.0, _s(NOON + _hours(1))) for item_id in (1, 2, 3)),
        )

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

    @pytest.mark.parametrize("kind", ["play", "skip", "repeat", "rating"])
    async def test_other_events_neither_like_nor_refuse(self, url: str, database: Database, kind: str) -> None:
        record_event(url, "e1", ME, 1, kind)
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert replace(listener, reactions=()) == Listener(member_id=ME)

    async def test_what_was_done_counts_by_the_table_of_strengths(self, url: str, database: Database) -> None:
        execute(
            url,
            *(
                "INSERT INTO songs_ai_interaction (event_id, member_id, item_id, type, value, completed, occurred_at) "
                f"VALUES ('{number}', {ME}, {item}, '{kind}', {value}, {completed}, '2026-03-01 12:00:00')"
                for number, (item, kind, value, completed) in enumerate(
                    [
                        (1, "play", 200, 1),
                        (1, "repeat", "NULL", "NULL"),
                        (2, "play", 29, 0),
                        (3, "play", 30, 0),
                        (4, "skip", "NULL", "NULL"),
                        (5, "rating", 5, "NULL"),
                        (6, "rating", 3.5, "NULL"),
                        (7, "rating", 1, "NULL"),
                        (8, "play", "NULL", "NULL"),
                        *[(9, "play", "NULL", 1)] * 4,
                    ]
                )
            ),
        )
        reactions = (await SqlListenerStore(database, SONGS).listener(ME)).reactions
        told = {each.item_id: each.weight for each in reactions}
        assert told == {1: 0.7, 3: 0.05, 4: -0.2, 5: 1.0, 7: -0.5, 9: 0.6}
        assert {each.occurred_at_s for each in reactions} == {_s(NOON)}

    async def test_of_ratings_the_last_one_counts(self, url: str, database: Database) -> None:
        for number, (value, hours) in enumerate([(1, 2), (5, 1)]):
            record_event(url, f"e{number}", ME, 1, "rating", at=NOON + _hours(hours))
            execute(url, f"UPDATE songs_ai_interaction SET value = {value} WHERE event_id = 'e{number}'")
        [reaction] = (await SqlListenerStore(database, SONGS).listener(ME)).reactions
        assert reaction == Interest(1, -0.5, _s(NOON + _hours(2)))

    @pytest.mark.parametrize("verdict", ["unlike", "dislike", "forget"])
    async def test_a_verdict_takes_back_what_was_done_before_it(
        self, url: str, database: Database, verdict: str
    ) -> None:
        record_event(url, "e1", ME, 1, "repeat", at=NOON)
        record_event(url, "e2", ME, 1, verdict, at=NOON + _hours(1))
        reactions = (await SqlListenerStore(database, SONGS).listener(ME)).reactions
        assert [each.weight for each in reactions] == ([-1.0] if verdict == "dislike" else [])

    async def test_what_was_put_into_a_list_is_the_members_at_once(self, url: str, database: Database) -> None:
        record_event(url, "e1", ME, 1, "playlist_add")
        listener = await SqlListenerStore(database, SONGS).listener(ME)
        assert listener == Listener(member_id=ME, interests=(Interest(1, 0.5),), seen_ids=frozenset({1}))

    async def test_a_member_is_told_of_as_at_an_earlier_instant(self, url: str, database: Database) -> None:
        like(url, ME, 1, at=NOON)
        record_event(url, "e1", ME, 2, "repeat", at=NOON + _hours(1))
        record_event(url, "e2", ME, 1, "dislike", at=NOON + _hours(3))
        then, now = await SqlListenerStore(database, SONGS).listener_at(ME, _s(NOON + _hours(2)))
        assert then.interests == (Interest(1, 1.0, _s(NOON)),)
        assert [each.item_id for each in then.reactions] == [2]
        assert now.disliked_ids == {1}
        assert now.interests == ()
        assert now == await SqlListenerStore(database, SONGS).listener(ME)

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
