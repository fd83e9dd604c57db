"""Two hundred messages over a real broker, half of them bad: those are dead letters, and all others are answered."""

import json
import struct
from collections.abc import AsyncIterator
from itertools import cycle, islice
from random import Random

import aio_pika
import pytest

from tests.support.backend import Document, job_body
from tests.support.llm_server import LLMServer
from tests.support.mutations import BAD_JOBS
from tests.support.raw_amqp import CONTENT_TYPE, HEADERS, TIMESTAMP, long, nested_tables, publish_raw, short, table
from tests.support.worker_process import worker
from tests.test_end_to_end import CATALOGUE, Site, all_succeeded, dead_letters, open_site

pytestmark = pytest.mark.timeout(120)

N_EACH = 100
SEED = 20261121

# Good jobs all the same: what counts of a message is its body.
ODD_PROPERTIES = (
    (TIMESTAMP, struct.pack(">Q", 1_769_860_800_123_456)),
    (CONTENT_TYPE, short(b"\xff\xfe")),
    (HEADERS, table((b"\xff", b"S" + long(b"x")))),
    (HEADERS, table((b"a", nested_tables(3000)))),
    (HEADERS, table((b"x-death", b"S" + long(b"often")))),
    (HEADERS, table((b"__TypeId__", b"F" + table((b"a", b"V"))), (b"attempt", b"S" + long(b"many")))),
    (HEADERS, table((b"a", b"S" + long(b"x" * 130_000)))),
    (0, b""),
)


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server) as site:
        yield site


def job(number: int, chance: Random) -> Document:
    return job_body(number, chance.sample(CATALOGUE, 5), strategy="fast", topK=20)


def raw(body: Document) -> bytes:
    return json.dumps(body).encode()


async def publish_all(site: Site, good: list[Document], bad: list[bytes], chance: Random) -> None:
    """In random order, those of the good with odd properties among them."""
    odd = dict(zip([body["jobId"] for body in good], cycle(ODD_PROPERTIES), strict=False))
    messages: list[tuple[bytes, str | None]] = [(raw(body), body["jobId"]) for body in good]
    messages += [(body, None) for body in bad]
    chance.shuffle(messages)
    for body, job_id in messages:
        if job_id is None:
            await site.backend.publish_raw(body)
        else:
            exchange, key = f"{site.prefix}.exchange", "recommendation.generate"
            flags, properties = odd[job_id]
            await publish_raw(site.amqp_url, exchange, key, flags, properties, body)


async def n_left(site: Site) -> int:
    """Messages that are ready in the job queue and in all retry queues."""
    left = 0
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        for name in ("q", "retry.0.2s.q", "retry.0.5s.q", "retry.1s.q", "dlq"):
            queue = await channel.declare_queue(f"{site.prefix}.recommendation.{name}", passive=True)
            left += queue.declaration_result.message_count or 0
    return left


async def test_bad_messages_are_dead_letters_that_name_the_field_and_good_ones_between_are_answered(site: Site) -> None:
    chance = Random(SEED)
    good = [job(number, chance) for number in range(N_EACH)]
    kinds = list(islice(cycle(BAD_JOBS), N_EACH))
    originals = [job(N_EACH + number, chance) for number in range(N_EACH)]
    bad = [BAD_JOBS[kind].of(raw(original)) for kind, original in zip(kinds, originals, strict=True)]
    readable = [
        original["jobId"] for kind, original in zip(kinds, originals, strict=True) if BAD_JOBS[kind].id_is_readable
    ]
    async with worker(site.environment) as process:
        await publish_all(site, good, bad, chance)
        await all_succeeded(site, good)
        statuses = await site.backend.wait(readable, 20, until={"failed"})
        letters = await dead_letters(site, N_EACH)
        async with process.client() as client:
            ready = (await client.get("/health/ready")).status_code
        assert process.is_running
        log = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    assert ready == 200
    assert await n_left(site) == 0
    assert sorted(bytes(letter.body) for letter in letters) == sorted(bad)
    fields = {body: BAD_JOBS[kind].field for body, kind in zip(bad, kinds, strict=True)}
    for letter in letters:
        assert letter.headers["x-dead-letter-reason"] == "invalid"
        assert letter.headers["x-last-error-code"] == "INVALID_JOB"
        assert str(letter.headers["x-last-error"]).startswith(f"{fields[bytes(letter.body)]}: ")
        assert len(str(letter.headers["x-last-error"])) <= 500
    assert all(status["error.code"] == "INVALID_JOB" for status in statuses.values())
    refused = [line for line in log if line["event"] == "job_dead_lettered"]
    assert len(refused) == N_EACH
    assert {str(line["error"]).partition(":")[0] for line in refused} == set(fields.values())
    assert not [line for line in log if line["event"] in {"unexpected_error_caught", "broker_disconnected"}]
