"""``main.py simulate`` as a person uses it, and its history played back as messages."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from core.event_codec import decode_event
from core.job_codec import decode_job
from models.event import Event
from models.job import Job
from tests.support.command import run_command
from tests.support.hand_clock import HandClock
from tests.support.messaging import delete_topology, private_topology
from tests.support.small_world import small_world
from training.simulator.as_events import events_of
from training.simulator.bulk import Plan
from training.simulator.files import INTERACTIONS, ITEMS
from training.simulator.live import Pace, Replay, replay
from workers.amqp_broker import AmqpBroker
from workers.topology import Topology

PLAN = Plan(n_members=80, n_days=10, seed=3, start=datetime(2026, 5, 1, tzinfo=UTC))
HEADER = "track_name,artist_name,genre,danceability,energy,loudness,speechiness,acousticness,instrumentalness,liveness"
HEADER += ",valence,tempo,duration_ms,popularity,track_id"


# --- as messages ---


class MovingClock(HandClock):
    """A clock that goes on a hundredth of a second whenever it is looked at."""

    def monotonic_s(self) -> float:
        self.move(0.01)
        return super().monotonic_s()


class Noting:
    """A ``Publisher`` that notes what it is given, and when."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.jobs: list[Job] = []
        self.told_at_s: list[float] = []

    async def publish_event(self, event: Event) -> None:
        self.events.append(event)
        self.told_at_s.append(HandClock.monotonic_s(self._clock))

    async def submit_job(self, job: Job) -> None:
        self.jobs.append(job)


async def played_back(pace: Pace) -> tuple[Noting, Replay, tuple[int, int]]:
    clock = MovingClock()
    publisher, found = Noting(clock), Replay.of(small_world(), PLAN)
    counts = await replay(found, PLAN, "sim-x-", publisher, clock, pace)
    return publisher, found, counts


async def test_everything_is_played_back_once_in_the_order_in_which_it_happened() -> None:
    publisher, found, counts = await played_back(Pace(events_per_s=1e6))
    assert publisher.events == events_of(found.happenings, PLAN.start, "sim-x-")
    instants = [event.occurred_at_ns or 0 for event in publisher.events]
    assert instants == sorted(instants)
    assert len({event.event_id for event in publisher.events}) == len(instants) == counts[0] > 500
    begun = found.session_at_us <= found.happenings.at_us[-1]
    assert [job.member_id for job in publisher.jobs] == found.session_members[begun].tolist()
    assert counts[1] == len({job.job_id for job in publisher.jobs}) > 100
    assert {job.source for job in publisher.jobs} == {"login"}


async def test_no_event_comes_sooner_than_the_rate_says_and_none_much_later() -> None:
    publisher, _, _ = await played_back(Pace(events_per_s=50.0, max_events=300))
    waited_s = np.array(publisher.told_at_s) - 1000.0
    earliest_s = np.arange(300) / 50.0
    assert (waited_s >= earliest_s - 1e-6).all()
    assert (waited_s <= earliest_s + 0.1).all()


async def test_one_may_end_sooner_and_leave_the_jobs_out() -> None:
    publisher, found, counts = await played_back(Pace(events_per_s=1e6, max_events=70, with_jobs=False))
    assert counts == (70, 0)
    assert publisher.events == events_of(found.happenings.only(np.arange(70)), PLAN.start, "sim-x-")
    assert publisher.jobs == []


# --- as a command ---


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}", "LOG_LEVEL": "ERROR"}


@pytest_asyncio.fixture
async def with_catalogue(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    genres = ("pop", "rock", "jazz")
    rows = [
        f"Song {i},Artist {i % 9},{genres[i % 3]},0.{i % 9},0.6,-7,0.05,0.2,0,0.1,0.4,{90 + i},200000,{i},t{i}"
        for i in range(90)
    ]
    (tmp_path / "tracks.csv").write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    for command in (("migrate",), ("ingest", str(tmp_path / "tracks.csv"))):
        outcome = await run_command(*command, environment=environment)
        assert outcome.code == 0, outcome.err
    return environment


async def test_events_are_written_once_and_can_be_removed(with_catalogue: dict[str, str]) -> None:
    asked = ("simulate", "--members", "130", "--days", "10", "--seed", "3")
    first = await run_command(*asked, environment=with_catalogue)
    told = re.search(r"([\d,]+) events of 130 members are there; ([\d,]+) written in", first.out)
    assert first.code == 0, first.err
    assert told is not None
    assert told[1] == told[2]
    again = await run_command(*asked, environment=with_catalogue)
    assert f"{told[1]} events of 130 members are there" in again.out
    assert "128 members before" in again.out
    other = await run_command(*asked[:-1], "4", environment=with_catalogue)
    assert other.code == 2
    assert "has events that are not of this simulation" in other.err
    removed = await run_command("simulate", "--remove", environment=with_catalogue)
    assert f"{told[1]} simulated events removed" in removed.out


async def test_a_data_set_needs_no_database_and_is_the_same_again(environment: dict[str, str], tmp_path: Path) -> None:
    asked = ("simulate", "--members", "70", "--days", "10", "--items", "120", "--out")
    for name in ("a", "b"):
        outcome = await run_command(*asked, str(tmp_path / name), environment=environment)
        assert outcome.code == 0, outcome.err
        assert re.search(r"[\d,]+ pairs of 70 members: `python main.py evaluate", " ".join(outcome.out.split()))
    for name in (INTERACTIONS, ITEMS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len((tmp_path / "a" / ITEMS).read_text().splitlines()) == 121
    assert not (tmp_path / "songs.db").exists()


async def test_one_thing_at_a_time(environment: dict[str, str], tmp_path: Path) -> None:
    outcome = await run_command("simulate", "--loop", "--out", str(tmp_path / "a"), environment=environment)
    assert outcome.code == 2
    assert "one of --out, --live, --loop and --remove at a time" in outcome.err


async def test_playing_back_to_a_broker_in_this_process_is_refused(with_catalogue: dict[str, str]) -> None:
    outcome = await run_command("simulate", "--live", environment={**with_catalogue, "BROKER_URL": "memory://"})
    assert outcome.code == 2
    assert "no worker can take what is published" in outcome.err


async def test_a_catalogue_that_is_empty_is_told_of(environment: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "tracks.csv"
    empty.write_text(f"{HEADER}\nSong,Artist,pop,0.5,0.6,-7,0.05,0.2,0,0.1,0.4,120,200000,50,t1\n", encoding="utf-8")
    for command in (("migrate",), ("ingest", str(empty))):
        assert (await run_command(*command, environment=environment)).code == 0
    outcome = await run_command("simulate", environment=environment)
    assert outcome.code == 2
    assert "too few items to simulate listeners on: 1, 20 are needed" in outcome.err


@pytest_asyncio.fixture
async def topology(amqp_url: str) -> AsyncIterator[Topology]:
    topology = private_topology(5, 30, 120)
    yield topology
    await delete_topology(amqp_url, topology)


async def test_events_and_jobs_reach_the_queues_of_the_contract(
    with_catalogue: dict[str, str], amqp_url: str, redis_url: str, topology: Topology
) -> None:
    prefix = topology.main.queue.removesuffix(".recommendation.q")
    urls = {"BROKER_URL": amqp_url, "REDIS_URL": redis_url, "NAME_PREFIX": prefix}
    command = ("simulate", "--live", "--members", "40", "--days", "5", "--rate", "100000", "--max-events", "200")
    outcome = await run_command(*command, environment={**with_catalogue, **urls})
    assert outcome.code == 0, outcome.err
    told = re.search(r"200 events and (\d+) jobs published", outcome.out)
    assert told is not None
    broker = AmqpBroker(amqp_url, topology)
    await broker.start()
    try:
        events = await waiting_in(broker, topology.events.queue)
        jobs = await waiting_in(broker, topology.main.queue)
    finally:
        await broker.close()
    assert len({decode_event(body).event_id for body, _ in events}) == len(events) == 200
    assert all(key == f"event.{decode_event(body).type}" for body, key in events)
    assert len({decode_job(body).job_id for body, _ in jobs}) == len(jobs) == int(told[1]) > 0


async def waiting_in(broker: AmqpBroker, queue: str) -> list[tuple[bytes, str]]:
    async with broker.browse(queue) as found:
        return [(delivery.body, delivery.routing_key) async for delivery in found]


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_the_loop_on_the_whole_worker_raises_true_satisfaction(
    environment: dict[str, str], tmp_path: Path
) -> None:
    curves = tmp_path / "curves.json"
    command = ("simulate", "--loop", "--members", "200", "--days", "10", "--rounds", "4", "--items", "600")
    outcome = await run_command(*command, "--json", str(curves), environment=environment)
    assert outcome.code == 0, outcome.err
    arms = json.loads(curves.read_text())["arms"]
    first, last = (arms["with the loop"]["satisfaction"][place] for place in (0, -1))
    assert arms["without the loop"]["satisfaction"][0] == pytest.approx(first)
    assert last > first + 0.02 > arms["without the loop"]["satisfaction"][-1] + 0.02
    told = re.search(r"last round, with the loop above without the loop: \+[\d.]+ \(\+([\d.]+) to", outcome.out)
    assert told is not None
    assert float(told[1]) > 0.02
    assert not (tmp_path / "songs.db").exists()
