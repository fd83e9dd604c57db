"""How old the oldest message of a queue can be: never told too little by whoever watched from the start."""

import asyncio
import json
from collections import deque
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.lanes import Lane, in_lane
from services.clock import SystemClock
from tests.support.hand_clock import HandClock
from tests.support.messaging import delete_topology, eventually, private_topology
from tests.test_job_handler import Desk, delivery
from workers.amqp_broker import AmqpBroker
from workers.broker import Delivery, OutgoingMessage
from workers.consumer import Consumer
from workers.disposition import Ack, AckReason, Disposition
from workers.queue_ages import QueueAges

NS = 1_000_000_000


def ns(clock: HandClock, *, ago_s: float = 0.0) -> int:
    return round((clock.now().timestamp() - ago_s) * NS)


# --- the rule ---


def test_an_empty_queue_holds_nothing_old() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock, ago_s=500))
    assert ages.oldest_s("main", 0) == 0.0


def test_what_waits_came_after_what_was_taken() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock, ago_s=30))
    assert ages.oldest_s("main", 4) == 30.0
    clock.move(5)
    assert ages.oldest_s("main", 4) == 35.0


def test_a_job_that_was_retried_for_long_does_not_make_the_queue_old() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock, ago_s=2))
    ages.taken("main", ns(clock, ago_s=600))
    assert ages.oldest_s("main", 1) == 2.0


def test_what_waits_came_after_the_queue_was_empty_however_long_ago_anything_was_taken() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock))
    clock.move(3600)
    ages.oldest_s("main", 0)
    clock.move(10)
    assert ages.oldest_s("main", 1) == 10.0


def test_a_publisher_whose_clock_is_ahead_hides_nothing() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock, ago_s=-3600))
    clock.move(60)
    assert ages.oldest_s("main", 1) == 60.0


def test_of_a_queue_that_nothing_is_known_of_the_time_since_the_first_look_is_told() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    assert ages.oldest_s("batch", 7) == 0.0
    ages.taken("batch", None)
    clock.move(40)
    assert ages.oldest_s("batch", 7) == 40.0


def test_the_routes_are_kept_apart() -> None:
    clock = HandClock()
    ages = QueueAges(clock)
    ages.taken("main", ns(clock, ago_s=9))
    ages.taken("batch", ns(clock, ago_s=90))
    assert (ages.oldest_s("main", 1), ages.oldest_s("batch", 1)) == (9.0, 90.0)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("move"), st.integers(1, 60)),
        st.tuples(st.just("publish"), st.integers(0, 300)),
        st.tuples(st.just("take"), st.integers(0, 1)),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=60,
)


@given(_STEPS)
def test_no_worker_ever_tells_less_than_the_truth_of_a_queue_that_it_saw_begin(steps: list[tuple[str, int]]) -> None:
    """Publishers ask up to 300 s before their message comes in (a retry); two workers take in turns."""
    clock = HandClock()
    workers = [QueueAges(clock), QueueAges(clock)]
    for worker in workers:
        assert worker.oldest_s("main", 0) == 0.0
    queue: deque[tuple[float, int]] = deque()
    for step, amount in steps:
        if step == "move":
            clock.move(amount)
        elif step == "publish":
            queue.append((clock.now().timestamp(), ns(clock, ago_s=amount)))
        elif step == "take" and queue:
            workers[amount].taken("main", queue.popleft()[1])
        elif step == "look":
            truth_s = clock.now().timestamp() - queue[0][0] if queue else 0.0
            told = [worker.oldest_s("main", len(queue)) for worker in workers]
            assert min(told) >= truth_s - 1e-5
            assert queue or told == [0.0, 0.0]


# --- who tells it what was taken ---


async def test_a_job_tells_its_route_when_it_was_asked_for_and_how_long_it_waited() -> None:
    clock = HandClock()
    desk = Desk(clock=clock)
    asked = clock.now().timestamp() - 12
    await desk.handle(requestedAt=asked)
    [(route, seconds)] = desk.observer.waits
    assert (route, round(seconds, 3)) == ("main", 12.0)


async def test_a_batch_job_is_of_the_batch_s_route() -> None:
    clock = HandClock()
    desk = Desk(clock=clock)
    with in_lane(Lane.BATCH):
        await desk.handle(requestedAt=clock.now().timestamp() - 3)
    assert [route for route, _ in desk.observer.waits] == ["batch"]


async def test_a_redelivery_a_later_attempt_and_a_replay_are_no_first_waits() -> None:
    clock = HandClock()
    asked = clock.now().timestamp() - 12
    desk = Desk(clock=clock)
    await desk.handle(jobId="a", requestedAt=asked, attempt=1)
    await desk.handle(jobId="b", requestedAt=asked, headers={"x-replayed": 1})
    await desk.handle(jobId="c")
    await desk.handler.handle(replace(delivery(jobId="d", requestedAt=asked), redelivered=True))
    assert desk.observer.waits == []


class Counting:
    """A handler that only notes what it takes, and can be held up."""

    def __init__(self, ages: QueueAges) -> None:
        self.ages, self.n, self.gate = ages, 0, asyncio.Event()

    async def handle(self, delivery: Delivery) -> Disposition:
        self.ages.taken("main", round(json.loads(delivery.body)["at"] * NS))
        self.n += 1
        await self.gate.wait()
        return Ack(AckReason.SUCCEEDED)


async def test_on_a_real_broker_the_bound_holds_while_a_worker_takes_some_and_leaves_the_rest(amqp_url: str) -> None:
    topology, clock = private_topology(), SystemClock()
    broker, ages = AmqpBroker(amqp_url, topology), QueueAges(clock)
    await broker.start()
    handler = Counting(ages)
    desk = Desk()
    consumer = Consumer(broker, topology.main, handler, concurrency=2, observer=desk.observer, lane=Lane.INTERACTIVE)
    began_s = clock.now().timestamp()
    try:
        for _ in range(5):
            body = json.dumps({"at": clock.now().timestamp()}).encode()
            main = topology.main
            await broker.publish(OutgoingMessage(exchange=main.exchange, routing_key=main.routing_key, body=body))
        last_s = clock.now().timestamp()
        await consumer.start()
        await eventually(lambda: handler.n == 2)
        n_waiting = (await broker.waiting([topology.main.queue]))[topology.main.queue]
        assert n_waiting == 3
        oldest_s, now_s = ages.oldest_s("main", n_waiting), clock.now().timestamp()
        assert now_s - last_s <= oldest_s <= now_s - began_s
        handler.gate.set()
        await eventually(lambda: handler.n == 5)
        assert (await broker.waiting([topology.main.queue]))[topology.main.queue] == 0
    finally:
        handler.gate.set()
        await consumer.stop(5)
        await broker.close()
        await delete_topology(amqp_url, topology)
    assert ages.oldest_s("main", 0) == 0.0
