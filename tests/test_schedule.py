"""Which scheduled tasks are due, what cron expressions are taken, and the rows that outlive every worker."""

from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from config.schedule import TASK_NAMES, Schedule
from config.settings import Settings
from core.schedule import MAX_TRIES, TaskOutcome, TaskRun, is_due
from services.database import Database
from services.task_runs import SqlTaskRuns
from tests.support.catalogue import OnMySql, OnSqlite, WithTables
from workers.task_command import COMMANDS

NOW = datetime(2026, 11, 21, 4, 30, tzinfo=UTC)
HOURS = st.integers(0, 24 * 400).map(lambda n: timedelta(hours=n))


def every_day_at_four(instant: datetime) -> datetime:
    at = instant.replace(hour=4, minute=0, second=0, microsecond=0)
    return at if at > instant else at + timedelta(days=1)


def run_of(task: str = "refresh", **fields: object) -> TaskRun:
    known: dict[str, object] = {"task": task, "covered_to": NOW, "fence": 1}
    return TaskRun(**{**known, **fields})  # type: ignore[arg-type] # checked by the dataclass' own users


# --- what is due ---


def test_what_was_missed_is_due_and_what_comes_is_not() -> None:
    assert is_due(run_of(covered_to=NOW - timedelta(hours=1)), NOW, every_day_at_four)
    assert not is_due(run_of(covered_to=NOW - timedelta(minutes=29)), NOW, every_day_at_four)


@given(HOURS)
def test_however_many_times_were_missed_one_run_catches_up_with_them(away: timedelta) -> None:
    before = run_of(covered_to=NOW - away)
    after = run_of(covered_to=NOW, started_at=NOW, ended_at=NOW, outcome=TaskOutcome.SUCCEEDED)
    assert is_due(before, NOW, every_day_at_four) == (away >= timedelta(hours=1))
    assert not is_due(after, NOW, every_day_at_four)


def test_a_schedule_that_has_ended_is_never_due() -> None:
    assert not is_due(run_of(covered_to=NOW - timedelta(days=9)), NOW, lambda _: None)


def test_a_run_that_its_leader_left_open_is_due_until_its_tries_are_used_up() -> None:
    for n_tries in range(1, MAX_TRIES + 2):
        left = run_of(started_at=NOW, n_tries=n_tries)
        assert is_due(left, NOW, every_day_at_four) == (n_tries < MAX_TRIES)


def test_a_run_that_failed_waits_for_its_next_time() -> None:
    failed = run_of(started_at=NOW, ended_at=NOW, outcome=TaskOutcome.FAILED, n_tries=1)
    assert not is_due(failed, NOW, every_day_at_four)


# --- settings ---


def test_every_task_has_a_command_and_every_command_a_task() -> None:
    assert set(COMMANDS) == set(TASK_NAMES)


def test_what_is_not_named_keeps_its_time_and_an_empty_one_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULE", '{"refresh": "30 2 * * 1-5", "digest": ""}')
    found = Settings(_env_file=None).schedule.expressions
    assert found["refresh"] == "30 2 * * 1-5"
    assert found["embed"] == Schedule().embed
    assert "digest" not in found


@pytest.mark.parametrize("given", ["nightly", "99 4 * * *", "0 4 * *", "0 4 * * * *"])
def test_an_expression_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SCHEDULE", f'{{"refresh": "{given}"}}')
    with pytest.raises(ValueError, match="refresh"):
        Settings(_env_file=None)


def test_a_task_that_does_not_exist_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULE", '{"refrehs": "0 4 * * *"}')
    with pytest.raises(ValueError, match="refrehs"):
        Settings(_env_file=None)


@pytest.mark.parametrize("expression", Schedule().expressions.values())
def test_the_defaults_come_round_once_a_day(expression: str) -> None:
    trigger = CronTrigger.from_crontab(expression, "Asia/Seoul")
    first = trigger.get_next_fire_time(None, NOW)
    assert first is not None
    second = trigger.get_next_fire_time(None, first + timedelta(seconds=1))
    assert second - first == timedelta(days=1)


# --- rows ---


class TaskRunsTests(WithTables):
    async def test_a_task_that_is_made_known_twice_keeps_its_first_row(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("refresh", NOW)
        await runs.add("refresh", NOW + timedelta(days=1))
        assert await runs.last() == {"refresh": TaskRun(task="refresh", covered_to=NOW, fence=0)}

    async def test_a_run_is_written_down_from_its_beginning_to_its_end(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("refresh", NOW)
        later = NOW + timedelta(minutes=5)
        assert await runs.begin("refresh", at=later, fence=3, worker="one")
        assert (await runs.last())["refresh"] == run_of(
            covered_to=later, fence=3, started_at=later, n_tries=1, worker="one"
        )
        end = later + timedelta(minutes=1)
        assert await runs.end("refresh", at=end, fence=3, outcome=TaskOutcome.SUCCEEDED, detail="7 jobs published")
        found = (await runs.last())["refresh"]
        assert (found.ended_at, found.outcome, found.detail) == (end, TaskOutcome.SUCCEEDED, "7 jobs published")

    async def test_a_leader_that_was_succeeded_can_neither_begin_nor_end_a_run(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("fit", NOW)
        assert await runs.begin("fit", at=NOW, fence=1, worker="old")
        assert await runs.begin("fit", at=NOW, fence=2, worker="new")
        assert not await runs.end("fit", at=NOW, fence=1, outcome=TaskOutcome.FAILED, detail="")
        assert not await runs.begin("fit", at=NOW, fence=1, worker="old")
        found = (await runs.last())["fit"]
        assert (found.worker, found.outcome, found.fence) == ("new", None, 2)

    async def test_a_leader_that_takes_over_keeps_the_one_before_from_a_run_that_neither_has_begun(
        self, database: Database
    ) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("fit", NOW)
        await runs.begin("fit", at=NOW, fence=1, worker="old")
        await runs.take_over(2)
        assert not await runs.end("fit", at=NOW, fence=1, outcome=TaskOutcome.SUCCEEDED, detail="")
        assert not await runs.begin("fit", at=NOW, fence=1, worker="old")
        found = (await runs.last())["fit"]
        assert (found.worker, found.outcome, found.n_tries) == ("old", None, 1)
        await runs.take_over(1)  # and never back
        assert await runs.begin("fit", at=NOW, fence=2, worker="new")

    async def test_tries_count_runs_that_were_left_open_and_start_anew_after_an_end(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("fit", NOW)
        for fence in (1, 2, 3):
            await runs.begin("fit", at=NOW, fence=fence, worker="")
        assert (await runs.last())["fit"].n_tries == 3
        await runs.end("fit", at=NOW, fence=3, outcome=TaskOutcome.FAILED, detail="")
        await runs.begin("fit", at=NOW, fence=3, worker="")
        assert (await runs.last())["fit"].n_tries == 1

    async def test_a_task_that_nobody_made_known_has_no_run(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        assert not await runs.begin("fit", at=NOW, fence=1, worker="")
        assert await runs.last() == {}

    async def test_of_a_long_detail_the_end_is_kept_and_passwords_are_masked(self, database: Database) -> None:
        runs = SqlTaskRuns(database)
        await runs.add("fit", NOW)
        await runs.begin("fit", at=NOW, fence=1, worker="")
        said = "x" * 2000 + " mysql://root:hunter2@host/db"
        await runs.end("fit", at=NOW, fence=1, outcome=TaskOutcome.FAILED, detail=said)
        detail = (await runs.last())["fit"].detail
        assert len(detail) == 1000
        assert detail.endswith("mysql://root:***@host/db")


class TestOnMySql(OnMySql, TaskRunsTests):
    pass


class TestOnSqlite(OnSqlite, TaskRunsTests):
    pass
