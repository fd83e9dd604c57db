"""Simulated histories in the worker's table: each event once, however often and however rudely a run was cut off."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from core.errors import ConfigurationError, DependencyUnavailable
from models.event import Event, EventType
from services import migrations
from services.database import Database, parse_url
from services.interaction_log import SqlInteractionLog
from services.schema import interaction
from services.simulated_events import SqlSimulatedEvents
from tests.support.catalogue import SONGS, OnMySql, OnSqlite, WithTables, insert_songs, record_event
from tests.support.small_world import made_up_items, small_world
from tests.support.worker_process import ROOT
from training.simulator.as_events import PREFIX, event_id, events_of, member_of
from training.simulator.bulk import Plan, write_histories
from training.simulator.files import positive_pairs
from training.simulator.happenings import KINDS, Happenings
from training.simulator.history import GROUP_SIZE, histories

START = datetime(2026, 5, 1, tzinfo=UTC)
PLAN = Plan(n_members=150, n_days=10, seed=3, start=START)
WORLD = small_world()


def past(plan: Plan = PLAN) -> Happenings:
    return Happenings.joined(each.happenings for each in histories(WORLD, plan.n_members, plan.n_days, plan.seed))


async def rows_of(database: Database) -> list[tuple[object, ...]]:
    async with database.connect() as connection:
        return [tuple(row) for row in await connection.execute(sa.select(interaction).order_by(interaction.c.event_id))]


def without_seconds(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [(event.event_id, event.member_id, event.item_id, event.type.value) for event in events]


class _CutOff(SqlSimulatedEvents):
    """Fails once it has added so many groups."""

    def __init__(self, database: Database, n_groups: int) -> None:
        super().__init__(database)
        self._left = n_groups

    async def add(self, events: Sequence[Event]) -> None:
        if not self._left:
            raise DependencyUnavailable("mysql", "gone")
        self._left -= 1
        await super().add(events)


class _Counting(SqlSimulatedEvents):
    """Counts what it is given."""

    n_added = 0

    async def add(self, events: Sequence[Event]) -> None:
        self.n_added += len(events)
        await super().add(events)


class Histories(WithTables):
    async def test_every_event_is_there_once_with_all_that_is_known_of_it(self, database: Database) -> None:
        found = past()
        written = await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        rows = await rows_of(database)
        assert written.n_events == written.n_written == len(rows) == len(found) > 1000
        for place in range(0, len(found), 97):
            name, member, item, kind, value, completed, at = rows[place]
            assert (member, item) == (found.members[place], found.items[place])
            assert kind == KINDS[found.kinds[place]]
            assert at == START.replace(tzinfo=None) + timedelta(microseconds=int(found.at_us[place]))
            assert completed == {-1: None, 0: False, 1: True}[int(found.completed[place])]
            assert value is None if completed is None else value == pytest.approx(found.seconds[place])
            assert str(name).startswith(PLAN.prefix(WORLD))

    async def test_a_second_run_changes_nothing_and_writes_but_the_last_group(self, database: Database) -> None:
        await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        before, table = await rows_of(database), _Counting(database)
        written = await write_histories(WORLD, PLAN, table)
        assert await rows_of(database) == before
        assert table.n_added == written.n_written < len(before) / 2
        assert written.n_members_before == 2 * GROUP_SIZE

    async def test_a_run_that_was_cut_off_is_gone_on_with(self, database: Database) -> None:
        with pytest.raises(DependencyUnavailable):
            await write_histories(WORLD, PLAN, _CutOff(database, 2))
        n_left = len(await rows_of(database))
        written = await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        assert 0 < n_left < written.n_events == len(past())
        assert written.n_members_before == GROUP_SIZE

    async def test_more_members_are_the_same_and_further_ones(self, database: Database) -> None:
        await write_histories(WORLD, replace(PLAN, n_members=100), SqlSimulatedEvents(database))
        await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        expected = events_of(past(), START, PLAN.prefix(WORLD))
        assert [row[:4] for row in await rows_of(database)] == without_seconds(expected)

    async def test_members_who_have_other_events_are_refused(self, database: Database, url: str) -> None:
        record_event(url, "somebody's own", 150, 10, "like")
        with pytest.raises(ConfigurationError, match="member 150 has events that are not of this simulation"):
            await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        await write_histories(WORLD, replace(PLAN, n_members=149), SqlSimulatedEvents(database))
        for other in (replace(PLAN, seed=4), replace(PLAN, n_days=11), replace(PLAN, first_member=100)):
            with pytest.raises(ConfigurationError, match="give another --first-member"):
                await write_histories(WORLD, other, SqlSimulatedEvents(database))
        await write_histories(WORLD, replace(PLAN, first_member=1000), SqlSimulatedEvents(database))

    async def test_what_was_simulated_can_be_taken_away_and_nothing_else_is(
        self, database: Database, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.simulated_events._REMOVED_AT_ONCE", 500)
        for name in ("sim", "sim.", "sin-1", "a"):
            record_event(url, name, 9000, 10, "like")
        written = await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        assert await SqlSimulatedEvents(database).remove(PREFIX) == written.n_events
        assert [row[0] for row in await rows_of(database)] == ["a", "sim", "sim.", "sin-1"]
        assert await SqlSimulatedEvents(database).remove(PREFIX) == 0

    async def test_progress_is_told_after_every_group(self, database: Database) -> None:
        told: list[tuple[int, int]] = []
        written = await write_histories(
            WORLD, PLAN, SqlSimulatedEvents(database), lambda members, events: told.append((members, events))
        )
        assert [members for members, _ in told] == [0, 64, 128, 150]
        assert told[-1][1] == written.n_written

    async def test_the_workers_own_log_reads_the_same_pairs_as_the_files_hold(
        self, database: Database, url: str
    ) -> None:
        insert_songs(url, *({"song_id": item.item_id} for item in made_up_items()))
        await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
        read = [each async for batch in SqlInteractionLog(database, SONGS).stream() for each in batch]
        pairs = positive_pairs(past())
        written = set(zip(pairs.members.tolist(), pairs.items.tolist(), strict=True))
        assert {(each.member_id, each.item_id) for each in read} == written


class TestHistoriesOnMySql(OnMySql, Histories):
    pass


class TestHistoriesOnSqlite(OnSqlite, Histories):
    pass


# --- cut off for good ---

_WRITER = """
import asyncio, sys
from tests.test_simulated_events import PLAN, WORLD
from services.database import Database
from services.simulated_events import SqlSimulatedEvents
from training.simulator.bulk import write_histories

class Slow(SqlSimulatedEvents):
    async def add(self, events):
        await super().add(events)
        print("added", flush=True)

asyncio.run(write_histories(WORLD, PLAN, Slow(Database(sys.argv[1]))))
"""


@pytest_asyncio.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[tuple[str, Database]]:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    await asyncio.to_thread(migrations.upgrade, parse_url(url))
    database = Database(url)
    yield url, database
    await database.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_process_that_is_killed_leaves_whole_groups_and_the_next_one_goes_on(
    on_disk: tuple[str, Database], how: signal.Signals
) -> None:
    url, database = on_disk
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"added\n"
    os.kill(process.pid, how)
    await process.wait()
    n_left = len(await rows_of(database))
    assert n_left > 0
    await write_histories(WORLD, PLAN, SqlSimulatedEvents(database))
    expected = events_of(past(), START, PLAN.prefix(WORLD))
    assert [row[:4] for row in await rows_of(database)] == without_seconds(expected)


# --- ids ---


def test_ids_rise_with_members_and_numbers_and_name_the_member() -> None:
    ids = [event_id("sim-0123456789ab-", member, number) for member in (1, 9, 10, 99_999_999) for number in (0, 9, 10)]
    assert ids == sorted(ids)
    assert [member_of(each) for each in ids[::3]] == [1, 9, 10, 99_999_999]
    assert max(map(len, ids)) < 64


def test_events_are_those_of_the_contract() -> None:
    events = events_of(past(), START, "sim-x-")
    assert {event.type for event in events} <= set(EventType)
    assert len({event.event_id for event in events}) == len(events)
    for event in events[::50]:
        is_play = event.type in (EventType.PLAY, EventType.SKIP, EventType.REPEAT)
        assert (event.value is not None) is (event.completed is not None) is is_play
        assert event.occurred_at_ns is not None
        assert event.occurred_at_ns >= int(START.timestamp()) * 10**9
