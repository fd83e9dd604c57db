"""The observer of the chaos suite sees every step, and knows which of them may not be."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos.status_trace import GONE, StatusTrace
from tests.support.private_servers import PrivateRedis
from tests.support.servers import Kind, Need, NoServer, Servers


@pytest.fixture
def server() -> Iterator[PrivateRedis]:
    servers, need = Servers(docker_answers=lambda: False), Need(Kind.REDIS, breakable=True)
    servers.begin([need], print)
    try:
        server = servers.wait(need)
    except NoServer as error:
        pytest.skip(str(error))
    assert isinstance(server, PrivateRedis)
    yield server
    servers.close()


@pytest.fixture
def client(server: PrivateRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def trace(server: PrivateRedis) -> StatusTrace:
    return StatusTrace(server.append_only_file)


def test_steps_are_seen_in_order_whoever_writes_them(client: redis.Redis, trace: StatusTrace) -> None:
    client.hsetnx("job:status:j", "status", "queued")
    client.hsetnx("job:status:j", "status", "running")  # has no effect
    client.eval("redis.call('HSET', KEYS[1], 'progress', '0', 'status', 'running')", 1, "job:status:j")
    trace.read()
    assert not trace.is_over("j")
    client.eval(
        "redis.call('SET', KEYS[2], ARGV[1]) redis.call('HSET', KEYS[1], 'status', 'succeeded')",
        *(2, "job:status:j", "job:result:j", "long" * 1000),
    )
    trace.read()
    assert trace.statuses == {"j": ["queued", "running", "succeeded"]}
    assert (trace.is_over("j"), trace.n_terminal, trace.faults) == (True, 1, [])


def test_no_step_is_missed_over_a_crash_and_none_is_read_twice(
    server: PrivateRedis, client: redis.Redis, trace: StatusTrace
) -> None:
    for number in range(50):
        client.hset("job:status:a", mapping={"status": "running", "step": number})
    trace.read()
    server.kill()
    server.start()
    for _ in range(50):
        client.hset("job:status:a", "status", "running")
    trace.read()
    trace.read()
    assert trace.statuses == {"a": ["running"] * 100}


def test_the_file_is_found_after_it_was_switched_off_and_on(server: PrivateRedis, client: redis.Redis) -> None:
    first = server.append_only_file
    client.config_set("appendonly", "no")
    client.config_set("appendonly", "yes")
    while client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)
    trace = StatusTrace(server.append_only_file)
    client.hset("job:status:j", "status", "queued")
    trace.read()
    assert server.append_only_file != first
    assert trace.statuses == {"j": ["queued"]}


def test_what_a_crash_left_half_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    whole = b"*1\r\n$5\r\nMULTI\r\n*4\r\n$4\r\nHSET\r\n$12\r\njob:status:j\r\n$6\r\nstatus\r\n$7\r\nrunning\r\n"
    file, last = tmp_path / "aof", b"*1\r\n$4\r\nEXEC\r\n"
    trace = StatusTrace(file)
    for end in range(len(whole + last)):
        file.write_bytes((whole + last)[:end])
        trace.read()
        assert trace.statuses == {}
    file.write_bytes(whole + last)
    trace.read()
    assert trace.statuses == {"j": ["running"]}


@pytest.mark.parametrize(
    "steps",
    [
        ["running", "queued"],
        ["running", "failed", "running"],
        ["running", "failed", "failed"],
        ["running", "failed", "succeeded"],
        ["running", "succeeded", "failed"],
        ["running", "succeeded", "running"],
        ["succeeded"],
    ],
)
def test_a_step_backwards_is_a_fault(client: redis.Redis, trace: StatusTrace, steps: list[str]) -> None:
    client.set("job:result:j", "{}")
    for step in steps:
        client.hset("job:status:j", "status", step)
    trace.read()
    assert len(trace.faults) == 1
    assert " ".join(steps) in trace.faults[0]


def test_a_success_before_its_result_is_a_fault(client: redis.Redis, trace: StatusTrace) -> None:
    client.hset("job:status:j", "status", "running")
    client.hset("job:status:j", "status", "succeeded")
    client.set("job:result:j", "{}")
    trace.read()
    assert trace.faults == ["j succeeded before its result was there"]


def test_a_status_that_goes_is_a_fault(client: redis.Redis, trace: StatusTrace) -> None:
    client.hset("job:status:j", "status", "queued")
    client.delete("job:status:j")
    trace.read()
    assert trace.statuses == {"j": ["queued", GONE]}
    assert len(trace.faults) == 1


def test_jobs_of_before_can_be_forgotten(client: redis.Redis, trace: StatusTrace) -> None:
    client.hset("job:status:old", "status", "succeeded")
    trace.skip()
    client.hset("job:status:new", "status", "queued")
    trace.read()
    assert (dict(trace.statuses), trace.faults) == ({"new": ["queued"]}, [])
