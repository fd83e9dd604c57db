"""Which version is in force, which was before, what is kept; and who may fit."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.model_store import ModelOrigin, Promotion
from services.database import Database, parse_url
from services.fit_lease import held_lease
from services.model_store import BLOCK_BYTES, ROLLBACK, SqlModelStore, previous_of
from services.schema import ai_model_block, lease, model_origin
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, connection
from tests.support.hand_clock import HandClock

KIND = "collaborative"
AT = datetime(2026, 3, 1, tzinfo=UTC)


async def with_versions(database: Database, *versions: str) -> tuple[SqlModelStore, HandClock]:
    """Saved one second after the other."""
    clock = HandClock()
    store = SqlModelStore(database, clock)
    for version in versions:
        await store.save(KIND, version, b"model" * 10, {"ndcg": 0.25})
        clock.move(1)
    return store, clock


async def promoted(store: SqlModelStore, *versions: str) -> None:
    for version in versions:
        assert await store.promote(
            KIND, version, instead_of=await store.active_version(KIND), cause="promote", reason="why not"
        )


class ModelVersionTests(WithTables):
    async def test_versions_are_told_newest_first_with_the_active_and_the_previous_one(
        self, database: Database
    ) -> None:
        store, _ = await with_versions(database, "1", "2", "3")
        await promoted(store, "1", "3")
        found = await store.versions(KIND)
        assert [each.version for each in found] == ["3", "2", "1"]
        assert [(each.active, each.previous) for each in found] == [(True, False), (False, False), (False, True)]
        assert found[0].n_bytes == 50
        assert found[0].metrics == {"ndcg": 0.25}
        assert found[2].created_at == HandClock().now()

    async def test_a_promotion_says_what_it_replaced_when_by_what_and_why(self, database: Database) -> None:
        store, clock = await with_versions(database, "1", "2")
        await promoted(store, "1")
        clock.move(60)
        await store.promote(KIND, "2", instead_of="1", cause="fit", reason="not worse: " + "x" * 2000)
        first, second = await store.promotions(KIND)
        assert (first.version, first.replaced, first.cause, first.reason) == ("1", None, "promote", "why not")
        assert (second.version, second.replaced, second.cause, second.promoted_at) == ("2", "1", "fit", clock.now())
        assert len(second.reason) == 1023

    async def test_what_was_compared_with_another_than_the_active_version_is_not_promoted(
        self, database: Database
    ) -> None:
        store, _ = await with_versions(database, "1", "2", "3")
        await promoted(store, "1", "2")
        assert not await store.promote(KIND, "3", instead_of="1", cause="fit", reason="better than 1")
        assert not await store.promote(KIND, "3", instead_of=None, cause="fit", reason="there was none")
        assert await store.active_version(KIND) == "2"
        assert len(await store.promotions(KIND)) == 2

    async def test_of_two_fits_at_once_only_one_is_promoted(self, database: Database) -> None:
        versions = [str(n) for n in range(6)]
        store, _ = await with_versions(database, *versions)
        for before in (None, "other"):
            if before:
                await store.save(KIND, before, b"", {})
                await promoted(store, before)
            done = await asyncio.gather(
                *(store.promote(KIND, each, instead_of=before, cause="fit", reason="") for each in versions)
            )
            assert sum(done) == 1
            assert await store.active_version(KIND) == versions[done.index(True)]

    async def test_an_unknown_version_is_not_promoted(self, database: Database) -> None:
        store, _ = await with_versions(database, "1")
        with pytest.raises(ConfigurationError, match="'collaborative' of version '7'"):
            await store.promote(KIND, "7", instead_of=None, cause="promote", reason="")
        assert await store.promotions(KIND) == []

    async def test_promoting_what_is_in_force_is_no_promotion(self, database: Database) -> None:
        store, _ = await with_versions(database, "1")
        await promoted(store, "1", "1")
        await store.activate(KIND, "1")
        assert len(await store.promotions(KIND)) == 1

    async def test_a_rollback_goes_one_version_back_and_the_next_further(self, database: Database) -> None:
        store, _ = await with_versions(database, "1", "2", "3")
        await promoted(store, "1", "2", "3")
        assert await store.roll_back(KIND, "it lies") == "2" == await store.active_version(KIND)
        assert await store.roll_back(KIND, "so does this") == "1" == await store.active_version(KIND)
        with pytest.raises(ConfigurationError, match="no version of 'collaborative' was in force before"):
            await store.roll_back(KIND, "")
        last = (await store.promotions(KIND))[-1]
        assert (last.cause, last.version, last.replaced, last.reason) == (ROLLBACK, "1", "2", "so does this")

    async def test_a_rollback_reaches_what_was_in_force_before_there_was_a_history(self, database: Database) -> None:
        store, _ = await with_versions(database, "old", "new")
        await store.activate(KIND, "old")
        with connection(database.sync_url) as opened:
            opened.exec_driver_sql("DELETE FROM songs_ai_model_promotion")
        await promoted(store, "new")
        assert await store.roll_back(KIND, "") == "old"

    async def test_old_versions_are_pruned_but_never_the_active_or_the_previous_one(
        self, url: str, database: Database
    ) -> None:
        store, _ = await with_versions(database, *"123456")
        await store.note_origin(KIND, "3", ModelOrigin())
        await store.save("embedder", "1", b"statistics", {})
        await promoted(store, "1", "2")
        assert sorted(await store.prune(2)) == [(KIND, "3"), (KIND, "4")]
        assert [each.version for each in await store.versions(KIND)] == ["6", "5", "2", "1"]
        assert await store.load("embedder", "1") == b"statistics"
        assert await store.load(KIND, "3") is None
        assert await store.origin(KIND, "3") is None
        assert await store.roll_back(KIND, "") == "1"
        with connection(url) as opened:
            assert opened.scalar(sa.select(sa.func.count()).select_from(ai_model_block)) == 5
            assert opened.scalar(sa.select(sa.func.count()).select_from(model_origin)) == 0
        # What was taken back is as old as it is.
        assert await store.prune(2) == [(KIND, "2")]

    async def test_a_pruned_version_is_passed_over_by_a_rollback(self, url: str, database: Database) -> None:
        store, _ = await with_versions(database, "1", "2", "3", "4")
        await promoted(store, "1", "2", "3", "4")
        # 3 is the previous one and stays.
        assert sorted(await store.prune(1)) == [(KIND, "1"), (KIND, "2")]
        assert await store.roll_back(KIND, "") == "3"
        with pytest.raises(ConfigurationError, match="was in force before"):
            await store.roll_back(KIND, "")

    async def test_a_long_model_is_pruned_whole(self, url: str, database: Database) -> None:
        store, clock = await with_versions(database)
        await store.save(KIND, "long", bytes(3 * BLOCK_BYTES), {})
        for version in "12":
            clock.move(1)
            await store.save(KIND, version, b"", {})
        await store.prune(1)
        with connection(url) as opened:
            assert opened.scalar(sa.select(sa.func.count()).select_from(ai_model_block)) == 0

    async def test_what_a_version_was_made_of_comes_back_and_is_noted_once(self, database: Database) -> None:
        store, _ = await with_versions(database, "1")
        assert await store.origin(KIND, "1") is None
        first = ModelOrigin(recipe='{"ridge": 70.0}', data_figures='{"n": [1, 2]}', data_until=AT)
        await store.note_origin(KIND, "1", first)
        await store.note_origin(KIND, "1", ModelOrigin())
        assert await store.origin(KIND, "1") == first

    # --- who may fit ---

    def test_one_fits_at_a_time_and_the_other_is_told_who(self, url: str, database: Database) -> None:
        clock, parsed = HandClock(), parse_url(url)
        with (
            held_lease(parsed, clock),
            pytest.raises(ConfigurationError, match=r"another fit is under way \(.+:\d+\)"),
            held_lease(parsed, clock),
        ):
            raise AssertionError("two hold it")
        with held_lease(parsed, clock):
            pass
        with connection(url) as opened:
            assert opened.execute(sa.select(lease)).all() == []

    def test_the_lease_of_a_dead_holder_ends(self, url: str, database: Database) -> None:
        clock = HandClock()
        with connection(url) as opened:
            until = clock.now().replace(tzinfo=None)
            opened.execute(sa.insert(lease).values(name="fit", holder="gone:1:2", held_until=until))
        with pytest.raises(ConfigurationError, match="gone:1"), held_lease(parse_url(url), clock):
            raise AssertionError("it had not ended")
        clock.move(1)
        with held_lease(parse_url(url), clock):
            pass

    def test_a_living_holder_renews(self, url: str, database: Database) -> None:
        clock, renewed = HandClock(), threading.Event()

        def heard(*arguments: object) -> None:
            if str(arguments[2]).startswith("UPDATE songs_ai_lease"):
                renewed.set()

        with held_lease(parse_url(url), clock, lease_s=0.2):
            clock.move(3600)
            sa.event.listen(sa.Engine, "before_cursor_execute", heard)
            try:
                assert renewed.wait(10)
                renewed.clear()
                # The first has come to its end when the second begins.
                assert renewed.wait(10)
            finally:
                sa.event.remove(sa.Engine, "before_cursor_execute", heard)
            with (
                pytest.raises(ConfigurationError, match="under way"),
                held_lease(parse_url(url), clock, lease_s=0.2),
            ):
                raise AssertionError("it was not renewed")

    def test_a_holder_whose_lease_was_taken_over_leaves_it_to_the_other(self, url: str, database: Database) -> None:
        clock = HandClock()
        with held_lease(parse_url(url), clock), connection(url) as opened:
            opened.execute(sa.update(lease).values(holder="another:1:2"))
            opened.commit()
        with connection(url) as opened:
            assert opened.scalar(sa.select(lease.c.holder)) == "another:1:2"


class TestModelVersionsOnSqlite(OnSqlite, ModelVersionTests):
    pass


class TestModelVersionsOnMySql(OnMySql, ModelVersionTests):
    pass


def test_a_database_that_is_away_is_named() -> None:
    with (
        pytest.raises(DependencyUnavailable, match=r"^mysql: "),
        held_lease(parse_url("mysql://root:hidden-word@127.0.0.1:1/songs"), HandClock()),
    ):
        raise AssertionError("nobody is there")


# --- the history of a kind ---


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Promotion], list[str]]:
    """Steps such as the store writes them, and beside them the versions in force as a plain stack."""
    stack: list[str] = []
    steps: list[Promotion] = []
    for choice in draw(st.lists(st.integers(-3, 4), max_size=20)):
        replaced = stack[-1] if stack else None
        others = [version for version in stack[:-1] if version != replaced]
        if choice < 0 and others:
            while stack[-1] != others[-1] or stack[-1] == replaced:
                stack.pop()
            steps.append(_step(stack[-1], replaced, ROLLBACK))
        elif str(choice) != replaced:
            stack.append(str(choice))
            steps.append(_step(stack[-1], replaced, "promote"))
    return steps, stack


def _step(version: str, replaced: str | None, cause: str) -> Promotion:
    return Promotion(kind=KIND, version=version, replaced=replaced, cause=cause, reason="", promoted_at=AT)


@given(histories())
def test_the_previous_version_is_what_a_stack_of_versions_says(made: tuple[Sequence[Promotion], list[str]]) -> None:
    steps, stack = made
    expected = next((version for version in reversed(stack[:-1]) if version != stack[-1]), None)
    assert previous_of(steps, set(stack)) == expected


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if "_renew" in thread.name]
