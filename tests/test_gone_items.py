"""Items that are gone are taken out of all results, whichever worker dies of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from core.errors import DependencyUnavailable
from tests.support.waiting import until
from workers import gone_items
from workers.gone_items import GoneItems

ONE, OTHER = frozenset({1, 2}), frozenset({3})


class Shelves:
    """Says of each sweep what it was told to; None: another worker is at it."""

    def __init__(self, outcomes: Sequence[int | Exception | None]) -> None:
        self._outcomes = list(outcomes)
        self.asked: list[frozenset[int]] = []

    async def withdraw_from_all(self, item_ids: frozenset[int]) -> int | None:
        self.asked.append(item_ids)
        outcome = self._outcomes.pop(0) if self._outcomes else 0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def sweeping(shelves: Shelves) -> AsyncIterator[GoneItems]:
    gone = GoneItems(shelves, again_after_s=0.05)
    running = asyncio.create_task(gone.run())
    yield gone
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def asked(shelves: Shelves, *sweeps: frozenset[int]) -> None:
    async def are_asked() -> bool:
        return len(shelves.asked) >= len(sweeps)

    await until(are_asked)
    await asyncio.sleep(0.15)  # and no more come
    assert shelves.asked == list(sweeps)


async def test_what_another_worker_is_at_is_swept_once_more_when_that_one_may_be_dead() -> None:
    shelves = Shelves([None])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE)


async def test_what_others_are_at_for_ever_is_left_to_them() -> None:
    shelves = Shelves([None] * 10)
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE)


async def test_what_is_swept_here_is_swept_once() -> None:
    shelves = Shelves([7])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE)


async def test_an_outage_is_waited_for_the_first_time_and_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gone_items, "PAUSE_S", 0.01)
    away = DependencyUnavailable("redis", "away")
    shelves = Shelves([away, None, away, 3])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE, ONE, ONE)
        gone.note(OTHER)
        await asked(shelves, ONE, ONE, ONE, ONE, OTHER)
