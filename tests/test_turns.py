"""What keeps the event loop free: one piece of work in a round, whatever else is ready, and no long collections."""

import asyncio
import gc

import pytest

from core.turns import Turns
from workers.runtime.consuming import short_collections


class Rounds:
    """Counts the rounds of the event loop while it is entered."""

    def __init__(self) -> None:
        self.n = 0

    async def __aenter__(self) -> "Rounds":
        self._task = asyncio.create_task(self._count())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _count(self) -> None:
        while True:
            self.n += 1
            await asyncio.sleep(0)


async def test_no_two_have_their_turn_in_the_same_round_and_who_asked_first_is_first() -> None:
    turns = Turns()
    taken: list[tuple[int, int]] = []

    async def piece(number: int, rounds: Rounds) -> None:
        await turns.turn()
        taken.append((number, rounds.n))

    async with Rounds() as rounds:
        await asyncio.gather(*(piece(number, rounds) for number in range(20)))
    assert [number for number, _ in taken] == list(range(20))
    assert len({at for _, at in taken}) == 20


async def test_one_who_comes_in_the_round_of_anothers_turn_waits_for_the_next() -> None:
    turns = Turns()
    taken: list[int] = []

    async def two_pieces(rounds: Rounds) -> None:
        for _ in range(2):
            await turns.turn()
            taken.append(rounds.n)

    async with Rounds() as rounds:
        await asyncio.gather(two_pieces(rounds), two_pieces(rounds))
    assert len(set(taken)) == 4


async def test_a_turn_given_up_is_taken_by_the_next() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.turn()) for _ in range(4)]
    await asyncio.sleep(0)
    # The first has it, the third waits for it.
    waiting[0].cancel()
    waiting[2].cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(waiting[1], waiting[3])
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert waiting[2].cancelled()


async def test_alone_a_turn_is_had_within_a_round() -> None:
    async with Rounds() as rounds:
        before = rounds.n
        await Turns().turn()
        assert rounds.n <= before + 1


def test_while_jobs_are_consumed_what_was_loaded_is_not_looked_through_for_garbage() -> None:
    assert gc.get_freeze_count() == 0
    with short_collections():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
