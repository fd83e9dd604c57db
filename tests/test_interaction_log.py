"""What members like and do, as a fit gets it: by the rules that a listener is served by."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.collaborative import Interaction
from services import interaction_log
from services.database import Database
from services.interaction_log import SqlInteractionLog
from services.listener_store import SqlListenerStore
from services.schema import interaction
from tests.support.catalogue import (
    SONGS,
    OnMySql,
    OnSqlite,
    WithTables,
    add_to_playlist,
    connection,
    insert_songs,
    like,
    record_event,
    statements_sent,
    update_song,
)

ME, ANOTHER = 2**53 + 1, 7
NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - as databases give it


def _at(hours: int = 0) -> datetime:
    return (NOON + timedelta(hours=hours)).replace(tzinfo=UTC)


def _songs(url: str, n: int = 9) -> None:
    insert_songs(url, *({"song_id": song_id} for song_id in range(1, n + 1)))


def _event(
    url: str,
    song_id: int | None,
    kind: str,
    *,
    hours: int = 0,
    value: float | None = None,
    completed: bool | None = None,
    member_id: int = ME,
) -> None:
    with connection(url) as opened:
        n = opened.scalar(sa.select(sa.func.count()).select_from(interaction))
        opened.execute(
            sa.insert(interaction).values(
                event_id=f"e{n}",
                member_id=member_id,
                item_id=song_id,
                type=kind,
                value=value,
                completed=completed,
                occurred_at=NOON + timedelta(hours=hours),
            )
        )


async def _all(database: Database, profile: CatalogueProfile = SONGS, batch_size: int = 10_000) -> list[Interaction]:
    log = SqlInteractionLog(database, profile)
    return [each async for batch in log.stream(batch_size) for each in batch]


async def _weights(database: Database) -> dict[int, float]:
    return {each.item_id: round(each.weight, 9) for each in await _all(database)}


class InteractionLogTests(WithTables):
    async def test_nobody_has_done_anything_yet(self, url: str, database: Database) -> None:
        _songs(url)
        assert await _all(database) == []

    async def test_likes_and_lists_of_all_members_come_each_pair_once(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 2, at=NOON)
        like(url, ME, 2, at=NOON + timedelta(hours=1))
        like(url, ME, 1, at=None)
        add_to_playlist(url, ME, 2, 3)
        add_to_playlist(url, ANOTHER, 1)
        assert await _all(database) == [
            Interaction(member_id=ANOTHER, item_id=1, weight=0.5),
            Interaction(member_id=ME, item_id=1, weight=1.0),
            Interaction(member_id=ME, item_id=2, weight=1.0, occurred_at=_at(1)),
            Interaction(member_id=ME, item_id=3, weight=0.5),
        ]

    async def test_items_that_are_inactive_or_gone_are_left_out(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1, 2, 99)
        add_to_playlist(url, ME, 3, 98)
        for song_id in (4, 5, 97):
            _event(url, song_id, "repeat")
        for song_id in (2, 3, 5):
            update_song(url, song_id, is_active=False)
        assert await _weights(database) == {1: 1.0, 4: 0.5}

    async def test_what_is_done_counts_beside_what_is_said(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1, at=NOON)
        for song_id in (1, 2):
            _event(url, song_id, "play", completed=True, hours=2)
            _event(url, song_id, "repeat", hours=3)
        _event(url, 3, "play", completed=True)
        _event(url, 3, "play", completed=True)
        _event(url, 4, "playlist_add")
        _event(url, 5, "like")
        assert await _weights(database) == {1: 1.7, 2: 0.7, 3: 0.4, 4: 0.5, 5: 1.0}
        assert {each.occurred_at for each in await _all(database) if each.item_id in (1, 2)} == {_at(3)}

    async def test_a_pair_tells_when_it_was_first_heard_of_too(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1, at=NOON + timedelta(hours=3))
        like(url, ME, 4, at=None)
        for song_id, kind, hours in (
            (1, "repeat", 5),
            (1, "skip", 1),
            (2, "repeat", 2),
            (3, "unlike", 1),
            (4, "like", 4),
        ):
            _event(url, song_id, kind, hours=hours)
        for hours in (2, 4):
            _event(url, 3, "like", hours=hours)
        found = {each.item_id: (each.first_at, each.occurred_at) for each in await _all(database)}
        # What was taken back was heard of all the same; one instant is told once; of no known instant none is made up.
        assert found == {1: (_at(1), _at(5)), 2: (None, _at(2)), 3: (_at(1), _at(4)), 4: (None, _at(4))}

    async def test_an_item_added_to_a_list_counts_no_more_for_the_event(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1)
        add_to_playlist(url, ME, 2)
        for song_id in (1, 2, 3, 3):
            _event(url, song_id, "playlist_add")
        assert await _weights(database) == {1: 1.0, 2: 0.5, 3: 0.5}

    async def test_the_last_rating_counts_where_it_is_high(self, url: str, database: Database) -> None:
        _songs(url)
        for song_id, values in {1: (4, 5), 2: (5, 3.5), 3: (1, 4), 4: (None,)}.items():
            for hours, value in enumerate(values):
                _event(url, song_id, "rating", value=value, hours=hours)
        assert await _weights(database) == {1: 1.0, 3: 1.0}

    @pytest.mark.parametrize(
        ("kind", "completed"), [("skip", None), ("play", None), ("play", False), ("what is to come", True)]
    )
    async def test_other_events_are_no_signs(
        self, url: str, database: Database, kind: str, completed: bool | None
    ) -> None:
        _songs(url)
        _event(url, 1, kind, completed=completed)
        assert await _all(database) == []

    @pytest.mark.parametrize("undo", ["unlike", "dislike", "forget"])
    @pytest.mark.parametrize("done", ["like", "repeat", "playlist_add"])
    async def test_what_is_taken_back_is_nothing(self, url: str, database: Database, done: str, undo: str) -> None:
        _songs(url)
        _event(url, 1, undo, hours=1)
        _event(url, 1, done, hours=0)
        assert await _all(database) == []

    async def test_what_comes_after_it_was_taken_back_counts(self, url: str, database: Database) -> None:
        _songs(url)
        _event(url, 1, "repeat", hours=0)
        _event(url, 1, "unlike", hours=1)
        _event(url, 1, "repeat", hours=2)
        assert await _weights(database) == {1: 0.5}

    async def test_a_play_does_not_outlive_a_dislike_but_a_later_like_does(self, url: str, database: Database) -> None:
        _songs(url)
        for song_id in (1, 2):
            like(url, ME, song_id, at=NOON)
            _event(url, song_id, "dislike", hours=1)
            _event(url, song_id, "repeat", hours=2)
        _event(url, 2, "like", hours=3)
        assert await _weights(database) == {2: 1.5}

    async def test_forgetting_no_item_forgets_all_events_before(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1)
        _event(url, 2, "repeat", hours=0)
        _event(url, 3, "like", hours=0)
        _event(url, None, "forget", hours=1)
        _event(url, 4, "repeat", hours=2)
        assert await _weights(database) == {1: 1.0, 4: 0.5}

    async def test_likes_and_lists_are_what_a_listener_is_served_by(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1, 2, 3, at=NOON)
        add_to_playlist(url, ME, 3, 4, 5)
        for song_id, kind in ((1, "dislike"), (4, "dislike"), (6, "like"), (7, "dislike"), (6, "unlike"), (8, "like")):
            record_event(url, f"said {song_id} {kind}", ME, song_id, kind, at=NOON + timedelta(minutes=song_id))
        served = await SqlListenerStore(database, SONGS).listener(ME)
        found = await _all(database)
        assert {each.item_id: each.weight for each in found} == {
            interest.item_id: interest.weight for interest in served.interests
        }

    @pytest.mark.parametrize("members_at_once", [1, 2, 500])
    async def test_no_member_is_lost_or_divided_between_pages(
        self, url: str, database: Database, monkeypatch: pytest.MonkeyPatch, members_at_once: int
    ) -> None:
        monkeypatch.setattr(interaction_log, "_MEMBERS_AT_ONCE", members_at_once)
        _songs(url)
        for member_id in (-5, 1, 3, 2**62):
            like(url, member_id, 1, 2)
        for member_id in (1, 2):
            add_to_playlist(url, member_id, 2, 3)
        for member_id in (3, 4):
            _event(url, 9, "repeat", member_id=member_id)
        pairs = [(each.member_id, each.item_id) for each in await _all(database)]
        assert pairs == [
            *((-5, 1), (-5, 2), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3)),
            *((3, 1), (3, 2), (3, 9), (4, 9), (2**62, 1), (2**62, 2)),
        ]

    async def test_batches_are_full_but_for_the_last(self, url: str, database: Database) -> None:
        _songs(url)
        for member_id in (1, 2):
            like(url, member_id, *range(1, 6))
        log = SqlInteractionLog(database, SONGS)
        assert [len(batch) async for batch in log.stream(4)] == [4, 4, 2]

    async def test_members_share_queries(self, url: str, database: Database) -> None:
        _songs(url)
        for member_id in range(1, 40):
            like(url, member_id, 1)
        log = SqlInteractionLog(database, SONGS)
        assert [len(batch) async for batch in log.stream()] == [39]
        with statements_sent() as statements:
            assert [len(batch) async for batch in log.stream()] == [39]
        assert len(statements) == 4

    async def test_a_profile_without_lists_and_dates_is_read(self, url: str, database: Database) -> None:
        _songs(url)
        like(url, ME, 1)
        add_to_playlist(url, ME, 2)
        likes = SONGS.likes.model_copy(update={"created_at": None, "weight": 2.0})
        profile = SONGS.model_copy(update={"lists": None, "likes": likes})
        assert await _all(database, profile) == [Interaction(member_id=ME, item_id=1, weight=2.0)]

    async def test_a_profile_of_tables_that_are_not_there_is_refused(self, database: Database) -> None:
        profile = SONGS.model_copy(update={"likes": SONGS.likes.model_copy(update={"table": "hearts"})})
        with pytest.raises(ConfigurationError, match="hearts"):
            await _all(database, profile)


class TestInteractionLogInMySql(OnMySql, InteractionLogTests):
    pass


class TestInteractionLogInSqlite(OnSqlite, InteractionLogTests):
    pass


async def test_a_server_that_is_not_there_is_an_unavailable_dependency() -> None:
    database = Database("mysql://nobody@127.0.0.1:1/songs", timeout_s=1)
    with pytest.raises(DependencyUnavailable):
        await _all(database)
    await database.close()
