"""The books of refreshes in batches, with the same tests on MySQL and on SQLite."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from core.errors import ConfigurationError
from core.ports.batches import BATCH_OUTCOMES, BatchPart, BatchQuestion, BatchTotals, BatchUsage
from services.batch_ledger import SqlBatchLedger
from services.database import Database
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, execute

TODAY = date(2026, 3, 1)
USAGE = BatchUsage(prompt_tokens=2**40, completion_tokens=300, cached_tokens=5, cost_usd=0.3)
NOW = datetime(2026, 2, 28, 20, 0, 0, 123456, tzinfo=UTC)


def part(key: str = "k", **more: Any) -> BatchPart:
    return BatchPart(**{"key": key, "run_on": TODAY, "created_at": NOW, "n_questions": 3, **more})


def question(member: int, **more: Any) -> BatchQuestion:
    known = {"locale": "ja", "taste_mark": "t", "shown_ids": (5, 2**53 + 1, 3)}
    return BatchQuestion(**{"custom_id": f"c{member}", "member_id": member, **known, **more})


QUESTIONS = [question(1), question(2**62, locale=None), question(3, shown_ids=())]


class LedgerTests(WithTables):
    @pytest.fixture
    def ledger(self, database: Database) -> SqlBatchLedger:
        return SqlBatchLedger(database)

    async def test_what_is_added_is_there_as_it_was(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), QUESTIONS)
        assert await ledger.open_parts() == [part()]
        found = {each.custom_id: each for each in await ledger.questions("k", ["c1", f"c{2**62}", "c3", "c4"])}
        assert found == {each.custom_id: each for each in QUESTIONS}

    async def test_open_parts_come_oldest_first(self, ledger: SqlBatchLedger) -> None:
        for key, hours in (("b", 2), ("a", 3), ("c", 1)):
            await ledger.add(part(key, created_at=NOW + timedelta(hours=hours)), [])
        assert [each.key for each in await ledger.open_parts()] == ["c", "b", "a"]

    async def test_what_the_provider_made_is_noted(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), [])
        assert await ledger.note_file("k", "file-1")
        assert await ledger.note_file("k", "file-1")  # said a second time
        assert await ledger.open_parts() == [part(file_id="file-1")]
        await ledger.note_batch("k", "batch_1")
        assert await ledger.open_parts() == [part(file_id="file-1", batch_id="batch_1")]

    async def test_a_part_that_is_dropped_or_closed_takes_no_file(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part("dropped"), QUESTIONS)
        await ledger.drop("dropped")
        await ledger.add(part("closed"), [])
        await ledger.close("closed", "completed")
        for key in ("dropped", "closed", "unknown"):
            assert not await ledger.note_file(key, "file-1")

    async def test_outcomes_are_kept_for_each_question(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), QUESTIONS)
        await ledger.settle("k", {"c1": "merged", "c3": "failed"})
        assert [each.outcome for each in await ledger.settled("k", ["failed", "stale"])] == ["failed"]
        assert {each.member_id for each in await ledger.settled("k", ["merged", "failed"])} == {1, 3}
        await ledger.settle("k", {"c3": "online"})
        assert await ledger.settled("k", ["failed"]) == []

    async def test_the_rest_is_settled_and_what_was_settled_stays(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), QUESTIONS)
        await ledger.settle("k", {"c1": "merged"})
        await ledger.settle_rest("k", "unanswered")
        assert await ledger.close("k", "expired") == {"merged": 1, "unanswered": 2}

    async def test_one_part_knows_nothing_of_anothers_questions(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part("a"), QUESTIONS)
        await ledger.add(part("b"), QUESTIONS[:1])
        await ledger.settle("b", {"c1": "merged", "c3": "merged"})
        await ledger.settle_rest("b", "failed")
        assert {each.outcome for each in await ledger.questions("a", ["c1", "c3"])} == {None}
        assert await ledger.questions("b", ["c3"]) == []

    async def test_a_closed_part_is_not_open_and_tells_its_counts(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), QUESTIONS)
        await ledger.settle("k", {"c1": "merged", "c3": "merged", f"c{2**62}": "stale"})
        assert await ledger.close("k", "completed") == {"merged": 2, "stale": 1}
        assert await ledger.open_parts() == []

    async def test_members_of_the_day_and_of_open_parts_were_asked_about(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part("today"), [question(1)])
        await ledger.add(part("open", run_on=TODAY - timedelta(days=1)), [question(2)])
        await ledger.add(part("done", run_on=TODAY - timedelta(days=1)), [question(3)])
        await ledger.close("today", "completed")
        await ledger.close("done", "completed")
        assert await ledger.asked_members(TODAY) == {1, 2}
        assert await ledger.asked_members(TODAY + timedelta(days=1)) == {2}

    async def test_a_dropped_part_was_never_there(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part("a"), QUESTIONS)
        await ledger.add(part("b"), [question(9)])
        await ledger.drop("a")
        assert [each.key for each in await ledger.open_parts()] == ["b"]
        assert await ledger.asked_members(TODAY) == {9}

    async def test_totals_are_sums_over_all_parts_that_were_ever_closed(self, ledger: SqlBatchLedger) -> None:
        assert await ledger.totals() == BatchTotals(BatchUsage(), dict.fromkeys(BATCH_OUTCOMES, 0))
        for key, outcome in (("a", "merged"), ("b", "stale")):
            await ledger.add(part(key), QUESTIONS)
            await ledger.note_usage(key, USAGE)
            await ledger.settle_rest(key, outcome)
            await ledger.close(key, "completed")
        await ledger.add(part("open"), QUESTIONS)
        await ledger.settle_rest("open", "merged")
        totals = await ledger.totals()
        assert totals.usage == BatchUsage(2 * 2**40, 2 * 300, 2 * 5, 0.6)
        assert totals.outcomes == {**dict.fromkeys(BATCH_OUTCOMES, 0), "merged": 3, "stale": 3}

    async def test_totals_are_the_same_after_a_restart_and_in_every_worker(
        self, ledger: SqlBatchLedger, database: Database, url: str
    ) -> None:
        await ledger.add(part(), QUESTIONS)
        await ledger.note_usage("k", USAGE)
        await ledger.close("k", "completed")
        another = Database(url)
        try:
            assert await SqlBatchLedger(another).totals() == await ledger.totals()
        finally:
            await another.close()

    async def test_what_is_noted_a_second_time_counts_once(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(), QUESTIONS)
        await ledger.settle_rest("k", "merged")
        await ledger.note_usage("k", USAGE)
        await ledger.note_usage("k", BatchUsage())  # a run that was killed after it deleted the answers
        await ledger.close("k", "completed")
        once = await ledger.totals()
        await ledger.note_usage("k", USAGE)
        await ledger.settle_rest("k", "stale")
        await ledger.close("k", "lost")
        assert await ledger.totals() == once
        assert (once.usage, once.outcomes["merged"]) == (USAGE, 3)

    async def test_totals_do_not_fall_where_old_questions_are_forgotten(self, ledger: SqlBatchLedger) -> None:
        await ledger.add(part(run_on=TODAY - timedelta(days=20)), QUESTIONS)
        await ledger.settle_rest("k", "merged")
        await ledger.note_usage("k", USAGE)
        await ledger.close("k", "completed")
        before = await ledger.totals()
        assert await ledger.forget(TODAY) == 1
        assert await ledger.questions("k", ["c1", "c3"]) == []
        await ledger.close("k", "completed")  # said once more: it has nothing to count any longer
        assert await ledger.totals() == before

    async def test_parts_from_before_there_were_sums_count_nothing(self, ledger: SqlBatchLedger, url: str) -> None:
        await ledger.add(part("old"), QUESTIONS)
        execute(url, "UPDATE songs_ai_refresh_part SET status = 'completed'")
        assert (await ledger.totals()).usage == BatchUsage()

    async def test_only_closed_parts_of_earlier_days_are_forgotten(self, ledger: SqlBatchLedger) -> None:
        for key, days, closed in (("old", 2, True), ("open", 2, False), ("new", 0, True)):
            await ledger.add(part(key, run_on=TODAY - timedelta(days=days)), [question(days + 10 * closed)])
            if closed:
                await ledger.close(key, "completed")
        assert await ledger.forget(TODAY) == 1
        assert await ledger.forget(TODAY) == 0
        assert await ledger.questions("old", ["c12"]) == []
        assert await ledger.asked_members(TODAY) == {10, 2}

    async def test_a_part_of_thousands_goes_in_whole_or_not_at_all(self, ledger: SqlBatchLedger) -> None:
        many = [question(member, shown_ids=range(10**12, 10**12 + 100)) for member in range(2500)]
        with pytest.raises(Exception, match=r"(?i)duplicate|unique"):
            await ledger.add(part("twice"), [*many, question(0)])
        assert await ledger.open_parts() == []
        await ledger.add(part(), many)
        await ledger.settle("k", {each.custom_id: "merged" for each in many})
        assert await ledger.close("k", "completed") == {"merged": 2500}

    async def test_without_its_tables_it_says_what_to_run(self, ledger: SqlBatchLedger, url: str) -> None:
        execute(url, "DROP TABLE songs_ai_refresh_part")
        with pytest.raises(ConfigurationError, match=r"main\.py migrate"):
            await ledger.open_parts()


class TestOnMySql(OnMySql, LedgerTests):
    pass


class TestOnSqlite(OnSqlite, LedgerTests):
    pass
