"""Interactive jobs first, and the batch never starved: by order, not by time."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from core.lanes import BATCH_TURN, Lane, LaneSlots, current_lane, in_lane
from core.turns import Turns
from tests.support.messaging import eventually, private_topology
from workers.broker import Delivery, OutgoingMessage
from workers.consumer import Consumer
from workers.disposition import Ack, AckReason, Disposition
from workers.memory_broker import MemoryBroker
from workers.observer import SilentObserver

A, B = Lane.INTERACTIVE, Lane.BATCH


class Queue:
    """Tasks that want a slot each, and the order in which they get it; each holds it until it is told."""

    def __init__(self, slots: LaneSlots) -> None:
        self._slots = slots
        self.order: list[Lane] = []
        self.holding: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, *lanes: Lane) -> None:
        for lane in lanes:
            self.tasks.append(asyncio.create_task(self._hold(lane)))
            await asyncio.sleep(0)

    async def _hold(self, lane: Lane) -> None:
        ended = asyncio.Event()
        with in_lane(lane):
            async with self._slots.slot():
                self.order.append(lane)
                self.holding.append(ended)
                await ended.wait()

    async def next(self) -> None:
        """The one that holds a slot for longest lets go of it."""
        self.holding.pop(0).set()
        for _ in range(4):
            await asyncio.sleep(0)

    async def drain(self) -> None:
        while self.holding:
            await self.next()


def runs(order: Sequence[Lane]) -> list[int]:
    """How many interactive ones went before each of the batch."""
    counts = [0]
    for lane in order:
        if lane is A:
            counts[-1] += 1
        else:
            counts.append(0)
    return counts


def test_a_task_is_interactive_unless_somebody_said_otherwise() -> None:
    assert current_lane() is A
    with in_lane(B):
        assert current_lane() is B
        with in_lane(A):
            assert current_lane() is A
        assert current_lane() is B
    assert current_lane() is A


async def test_a_tasks_lane_is_that_of_the_tasks_it_starts() -> None:
    async def lane() -> Lane:
        await asyncio.sleep(0)
        return current_lane()

    with in_lane(B):
        task = asyncio.create_task(lane())
    assert (await task, await lane()) == (B, A)


async def test_an_interactive_one_that_comes_last_goes_first() -> None:
    queue = Queue(LaneSlots(1, n_batch=1))
    await queue.join(B, B, B, B, A)
    await queue.drain()
    assert queue.order == [B, A, B, B, B]


async def test_where_both_wait_every_eighth_is_the_batchs() -> None:
    queue = Queue(LaneSlots(1, n_batch=1))
    await queue.join(A, *[B] * 3, *[A] * 40)
    await queue.drain()
    assert runs(queue.order)[:3] == [BATCH_TURN, BATCH_TURN - 1, BATCH_TURN - 1]
    assert Counter(queue.order) == {A: 41, B: 3}


async def test_the_batch_leaves_slots_for_those_who_come_later() -> None:
    queue = Queue(LaneSlots(4, n_batch=1))
    await queue.join(B, B, B, A, A, A, A)
    assert queue.order == [B, A, A, A]
    await queue.drain()
    assert Counter(queue.order) == {A: 4, B: 3}


async def test_interactive_ones_have_all_slots_that_are_free() -> None:
    queue = Queue(LaneSlots(3, n_batch=1))
    await queue.join(A, A, A, A)
    assert len(queue.order) == 3
    await queue.drain()
    assert len(queue.order) == 4


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.booleans()), max_size=30), st.integers(1, 3), st.integers(1, 3))
async def test_whoever_gives_up_takes_no_slot_with_them(those: list[tuple[Lane, bool]], n: int, n_batch: int) -> None:
    queue = Queue(LaneSlots(n, n_batch=n_batch))
    await queue.join(*(lane for lane, _ in those))
    leaving = [task for task, (_, leaves) in zip(queue.tasks, those, strict=True) if leaves]
    Random(len(those)).shuffle(leaving)
    for task in leaving:
        task.cancel()
        if queue.holding:  # a slot comes free in the round in which its next owner gives up
            queue.holding.pop(0).set()
    await asyncio.gather(*leaving, return_exceptions=True)
    queue.holding = [each for each in queue.holding if not each.is_set()]
    async with asyncio.timeout(10):
        while not all(task.done() for task in queue.tasks):
            for ended in queue.holding:
                ended.set()
            await asyncio.sleep(0)
    again = Queue(queue._slots)
    await again.join(*[A] * n)
    assert len(again.order) == n
    await again.drain()


# --- turns ---


async def test_a_batch_job_has_no_turn_while_an_interactive_one_is_at_work() -> None:
    turns, taken = Turns(longest_rest_s=60), list[Lane]()

    async def piece(lane: Lane) -> None:
        with in_lane(lane):
            await turns.turn()
            taken.append(lane)

    async with turns.at_work():
        batch = asyncio.create_task(piece(B))
        for _ in range(20):
            await piece(A)
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await batch
    assert taken == [*[A] * 20, B]


async def test_several_at_work_are_waited_for_all() -> None:
    turns = Turns(longest_rest_s=60)
    async with turns.at_work():
        async with turns.at_work():
            with in_lane(B):
                batch = asyncio.create_task(turns.turn())
        await asyncio.sleep(0)
        assert not batch.done()
    async with asyncio.timeout(10):
        await batch


async def test_a_batch_job_keeps_nobody_waiting_by_being_at_work() -> None:
    turns = Turns(longest_rest_s=60)
    with in_lane(B):
        async with turns.at_work(), asyncio.timeout(10):
            await turns.turn()


async def test_under_interactive_load_without_end_the_batch_goes_on_one_by_one() -> None:
    turns, taken = Turns(longest_rest_s=0.01), list[int]()

    async def piece(number: int) -> None:
        with in_lane(B):
            await turns.turn()
            taken.append(number)

    async with turns.at_work():
        async with asyncio.timeout(10):
            await asyncio.gather(*(piece(number) for number in range(5)))
    assert taken == [0, 1, 2, 3, 4]


async def test_a_batch_job_that_is_cancelled_while_it_rests_keeps_no_other_one_waiting() -> None:
    turns = Turns(longest_rest_s=60)
    async with turns.at_work():
        with in_lane(B):
            waiting = [asyncio.create_task(turns.turn()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[2].cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await waiting[1]


async def test_an_interactive_one_that_waits_for_a_model_lets_the_batch_go_on() -> None:
    turns = Turns(longest_rest_s=60)
    async with turns.at_work():
        with in_lane(B):
            batch = asyncio.create_task(turns.turn())
        await asyncio.sleep(0)
        assert not batch.done()
        async with turns.away(), asyncio.timeout(10):
            await batch
        with in_lane(B):
            later = asyncio.create_task(turns.turn())
        await asyncio.sleep(0.01)
        assert not later.done()
    async with asyncio.timeout(10):
        await later


async def test_a_batch_job_that_is_told_of_quiet_that_is_over_rests_on() -> None:
    turns = Turns(longest_rest_s=60)
    async with turns.at_work():
        with in_lane(B):
            batch = asyncio.create_task(turns.turn())
        await asyncio.sleep(0)
        async with turns.away():
            pass  # no round of the loop
        for _ in range(20):
            await asyncio.sleep(0)
        assert not batch.done()
    async with asyncio.timeout(10):
        await batch


class AtWork:
    """Batch jobs that are at work, then away, and at work again, each step when it is told."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.n_at_work = self.most_at_work = 0

    async def job(self) -> None:
        with in_lane(B):
            async with self.turns.at_work():
                await self.piece()
                async with self.turns.away():
                    await asyncio.sleep(0.001)
                await self.piece()

    async def piece(self) -> None:
        self.n_at_work += 1
        self.most_at_work = max(self.most_at_work, self.n_at_work)
        try:
            await asyncio.sleep(0.001)
        finally:
            self.n_at_work -= 1


async def test_of_batch_jobs_one_at_a_time_is_at_work() -> None:
    site = AtWork(Turns())
    async with asyncio.timeout(10):
        await asyncio.gather(*(site.job() for _ in range(10)))
    assert site.most_at_work == 1


async def test_interactive_jobs_are_at_work_side_by_side() -> None:
    turns, both = Turns(), asyncio.Barrier(2)

    async def job() -> None:
        async with turns.at_work():
            await both.wait()

    async with asyncio.timeout(10):
        await asyncio.gather(job(), job())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
async def test_whenever_batch_jobs_are_cancelled_the_next_ones_work(rounds: list[int]) -> None:
    site = AtWork(Turns())
    for n_rounds in rounds:
        tasks = [asyncio.create_task(site.job()) for _ in range(3)]
        for _ in range(n_rounds):
            await asyncio.sleep(0.0003)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*(site.job() for _ in range(3)))
    assert (site.n_at_work, site.most_at_work) == (0, 1)


async def test_who_is_not_at_work_is_not_away_either() -> None:
    turns = Turns(longest_rest_s=60)
    async with turns.away():
        pass
    async with asyncio.timeout(10):
        with in_lane(B):
            await turns.turn()


# --- the consumers of both queues ---


class Loud:
    """A handler of one slot, which says in which lane it was asked, and holds on until it may."""

    def __init__(self) -> None:
        self.slots = LaneSlots(1, n_batch=1)
        self.order: list[str] = []
        self.gate = asyncio.Event()

    async def handle(self, delivery: Delivery) -> Disposition:
        async with self.slots.slot():
            self.order.append(f"{current_lane()}:{delivery.body.decode()}")
            await self.gate.wait()
            await asyncio.sleep(0)
        return Ack(AckReason.SUCCEEDED)


async def test_with_a_full_batch_queue_jobs_that_are_published_later_are_done_first() -> None:
    broker, handler, observer = MemoryBroker(private_topology()), Loud(), SilentObserver()
    await broker.start()
    topology = broker.topology
    batch = Consumer(broker, topology.batch, handler, concurrency=4, observer=observer, lane=B)
    main = Consumer(broker, topology.main, handler, concurrency=64, observer=observer, lane=A)
    await batch.start()
    await main.start()
    for route, n in ((topology.batch, 50), (topology.main, 20)):
        for number in range(n):
            body = str(number).encode()
            await broker.publish(OutgoingMessage(exchange=route.exchange, routing_key=route.routing_key, body=body))
    await eventually(lambda: len(handler.order) == 1 and main.n_unsettled == 20)
    handler.gate.set()
    await eventually(lambda: len(handler.order) == 70)
    done = {lane: [each for each in handler.order if each.startswith(lane)] for lane in Lane}
    assert done == {lane: [f"{lane}:{number}" for number in range(n)] for lane, n in ((A, 20), (B, 50))}
    assert handler.order.index("interactive:19") == 1 + 19 + 19 // (BATCH_TURN - 1)
    for consumer in (batch, main):
        assert await consumer.stop(5)
