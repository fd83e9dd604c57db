"""How old the oldest message of a queue can be: never told too little, and not at all by who cannot know."""

import asyncio
import json
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
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
_SLACK_S = 0.05  # the two clocks are read one after the other


def ns(clock: HandClock, *, ago_s: float = 0.0) -> int:
    return round((clock.now().timestamp() - ago_s) * NS)


# --- the rule ---


class Watch:
    """Ages on a clock moved by hand, and looks that take no time."""

    def __init__(self, clock: HandClock | None = None) -> None:
        self.clock = clock or HandClock()
        self.ages = QueueAges(self.clock)

    def taken(self, *, asked_ago_s: float, route: str = "main") -> None:
        self.ages.taken(route, ns(self.clock, ago_s=asked_ago_s))

    def oldest_s(self, n_waiting: int, route: str = "main") -> float | None:
        return self.ages.oldest_s(route, n_waiting, began_s=self.ages.look_begins())


def test_an_empty_queue_holds_nothing_old() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=500)
    assert watch.oldest_s(0) == 0.0


def test_what_waits_came_after_what_was_taken() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=30)
    assert watch.oldest_s(4) == pytest.approx(30)
    watch.clock.move(5)
    assert watch.oldest_s(4) == pytest.approx(35)


def test_a_job_that_was_retried_for_long_does_not_make_the_queue_old() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=2)
    watch.taken(asked_ago_s=600)
    assert watch.oldest_s(1) == pytest.approx(2)


def test_what_waits_came_after_the_queue_was_empty_however_long_ago_anything_was_taken() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=0)
    watch.clock.move(3600)
    watch.oldest_s(0)
    watch.clock.move(10)
    assert watch.oldest_s(1) == pytest.approx(10)


def test_what_came_in_while_the_broker_was_asked_is_not_overlooked() -> None:
    watch = Watch()
    began_s = watch.ages.look_begins()
    watch.clock.move(8)
    assert watch.ages.oldest_s("main", 0, began_s=began_s) == 0.0
    assert watch.oldest_s(1) == pytest.approx(8)


def test_of_a_queue_that_nothing_is_known_of_nothing_is_told_and_a_take_tells_the_whole_age() -> None:
    watch = Watch()
    assert watch.oldest_s(500) is None
    watch.ages.taken("main", None)
    watch.clock.move(10)
    assert watch.oldest_s(500) is None
    watch.taken(asked_ago_s=610)
    assert watch.oldest_s(499) == pytest.approx(610)


def test_a_publisher_whose_clock_is_ahead_lowers_the_bound_to_the_time_since_its_job_was_taken_at_the_most() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=-3600)
    watch.clock.move(60)
    assert watch.oldest_s(1) == pytest.approx(60)


def test_a_step_of_the_worker_s_own_time_changes_nothing() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=30)
    watch.clock.step(-3600)
    assert watch.oldest_s(1) == pytest.approx(30)
    watch.clock.step(7200)
    watch.clock.move(5)
    assert watch.oldest_s(1) == pytest.approx(35)


def test_the_routes_are_kept_apart() -> None:
    watch = Watch()
    watch.taken(asked_ago_s=9)
    watch.taken(asked_ago_s=90, route="batch")
    assert watch.oldest_s(1) == pytest.approx(9)
    assert watch.oldest_s(1, "batch") == pytest.approx(90)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in the queue: when it came in, when it says that it was asked for, whether it came back to the head."""

    came_s: float
    asked_at_ns: int | None
    returned: bool = False


_SOME = st.integers(0, 1)  # of the workers
_STEPS = st.lists(
    st.tuples(
        st.integers(0, 60),  # seconds before it
        st.one_of(
            # a retry was asked for long before it comes in
            st.tuples(st.just("publish"), st.none() | st.just(0) | st.integers(0, 300)),
            st.tuples(st.sampled_from(["take", "ask", "hear", "die"]), _SOME),
        ),
    ),
    min_size=5,
    max_size=60,
)


class Worker:
    """Knows nothing at first; holds what it took, and questions to the broker whose answers are on their way."""

    def __init__(self, clock: HandClock) -> None:
        self.ages = QueueAges(clock)
        self.in_hand: list[Waiting] = []
        self.answers: deque[tuple[float, int]] = deque()


class History:
    """A queue, and two workers that take from it, look at it, and die; publishers' clocks are ahead by ``lead_s``."""

    def __init__(self, lead_s: int) -> None:
        self.clock = HandClock()
        self.queue: deque[Waiting] = deque()
        self.workers = [Worker(self.clock) for _ in range(2)]
        self._lead_s = lead_s

    def publish(self, ago_s: int | None) -> None:
        asked = None if ago_s is None else ns(self.clock, ago_s=ago_s - self._lead_s)
        self.queue.append(Waiting(self.clock.now().timestamp(), asked))

    def take(self, worker: Worker) -> None:
        if self.queue:
            worker.in_hand.append(self.queue.popleft())
            worker.ages.taken("main", worker.in_hand[-1].asked_at_ns)

    def ask(self, worker: Worker) -> None:
        """Of the broker, which answers at once; the answer may be on its way for long."""
        worker.answers.append((worker.ages.look_begins(), len(self.queue)))

    def hear(self, worker: Worker) -> None:
        if worker.answers:
            began_s, n_waiting = worker.answers.popleft()
            worker.ages.oldest_s("main", n_waiting, began_s=began_s)

    def die(self, worker: Worker) -> None:
        """What it had in hand comes back to the head; one that knows nothing comes in its place."""
        self.queue.extendleft(replace(each, returned=True) for each in reversed(worker.in_hand))
        self.workers[self.workers.index(worker)] = Worker(self.clock)

    def truth_s(self) -> float:
        now_s = self.clock.now().timestamp()
        return max((now_s - each.came_s for each in self.queue if not each.returned), default=0.0)


@given(_STEPS, st.sampled_from([0, 0, 30]))
def test_no_worker_ever_tells_less_than_the_age_of_the_oldest_that_did_not_come_back_less_the_lead_of_publishers(
    steps: list[tuple[int, tuple[str, int | None]]], lead_s: int
) -> None:
    history = History(lead_s)
    for pause_s, (step, amount) in steps:
        history.clock.move(pause_s)
        if step == "publish":
            history.publish(amount)
        else:
            getattr(history, step)(history.workers[amount or 0])
        for worker in history.workers:
            ages = deepcopy(worker.ages)  # lest it learns by being asked
            told = ages.oldest_s("main", len(history.queue), began_s=ages.look_begins())
            assert told is None or told >= history.truth_s() - lead_s - 1e-5
            assert history.queue or told == 0.0


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
        look_began_s = ages.look_begins()
        n_waiting = (await broker.waiting([topology.main.queue]))[topology.main.queue]
        assert n_waiting == 3
        oldest_s, now_s = ages.oldest_s("main", n_waiting, began_s=look_began_s), clock.now().timestamp()
        assert oldest_s is not None
        assert now_s - last_s - _SLACK_S <= oldest_s <= now_s - began_s + _SLACK_S
        handler.gate.set()
        await eventually(lambda: handler.n == 5)
        assert (await broker.waiting([topology.main.queue]))[topology.main.queue] == 0
    finally:
        handler.gate.set()
        await consumer.stop(5)
        await broker.close()
        await delete_topology(amqp_url, topology)
    assert ages.oldest_s("main", 0, began_s=ages.look_begins()) == 0.0
