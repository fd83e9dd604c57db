"""Traces of a real worker, as a collector receives them: from the publisher's span to the last stage."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence

import aio_pika
import orjson
import pytest
from aio_pika.abc import AbstractIncomingMessage

from core.trace_context import read_traceparent, trace_id_of
from models.log_event import LogEvent
from tests.support.backend import Document, job_body
from tests.support.faulty_wire import faulty_wire
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.otlp_receiver import OtlpReceiver, Span, otlp_receiver
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from tests.test_end_to_end import Site, open_site

pytestmark = pytest.mark.timeout(120)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STAGES = ["listener", "retrieve", "rank", "hydrate", "rerank", "save"]
SECRET = "pa55word-of-the-collector"


@pytest.fixture
async def collector() -> AsyncIterator[OtlpReceiver]:
    async with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
async def site(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer, collector: OtlpReceiver
) -> AsyncIterator[Site]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRET}",
        "LLM_TRACEPARENT": "true",
        "MAX_ATTEMPTS": "2",
    }
    async with open_site(amqp_url, mysql_url, redis_url, llm_server, **settings) as site:
        yield site


@contextlib.asynccontextmanager
async def channel_of(site: Site) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        yield channel


async def publish(site: Site, body: Document | bytes, **headers: str) -> None:
    async with channel_of(site) as channel:
        exchange = await channel.get_exchange(f"{site.prefix}.exchange")
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        message = aio_pika.Message(raw, headers=dict(headers), content_type="application/json")
        await exchange.publish(message, routing_key="recommendation.generate", mandatory=True)


async def dead_letter(site: Site) -> AbstractIncomingMessage:
    async with channel_of(site) as channel:
        queue = await channel.get_queue(f"{site.prefix}.recommendation.dlq")
        async with asyncio.timeout(20):
            while True:
                if letter := await queue.get(no_ack=True, fail=False):
                    return letter
                await asyncio.sleep(0.05)


def delivered(spans: Sequence[Span], trace_id: str) -> list[Span]:
    return [span for span in spans if span.kind == "consumer" and span.trace_id == trace_id]


async def one_delivery(collector: OtlpReceiver, trace_id: str, n: int = 1) -> list[Span]:
    """The spans of a trace once ``n`` deliveries in it have ended, which they do after all that is below them."""
    await collector.wait(lambda spans: len(delivered(spans, trace_id)) >= n)
    return collector.of(trace_id)


def named(spans: Sequence[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_a_job_is_one_trace_below_its_publishers_span(site: Site, collector: OtlpReceiver) -> None:
    body = job_body(7, [3, 4, 5], traceId="the publisher's own name")
    async with worker(site.environment) as process:
        await publish(site, body, traceparent=TRACEPARENT)
        await site.backend.wait([body["jobId"]], 20, until={"succeeded"})
        spans = await one_delivery(collector, TRACE)
        log = lines_of(process)
    queue = f"{site.prefix}.recommendation.q"
    delivery = named(spans, f"process {queue}")
    assert delivery.parent_id == PARENT
    assert delivery.error is None
    assert delivery.attributes == {
        **delivery.attributes,
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue,
        "messaging.message.body.size": len(orjson.dumps(body)),
        "songs_ai.job.id": body["jobId"],
        "songs_ai.job.attempt": 0,
        "songs_ai.job.trace_id": "the publisher's own name",
        "songs_ai.outcome": "acked",
        "songs_ai.reason": "succeeded",
    }
    stages = {name: named(spans, name) for name in STAGES}
    assert {(stage.parent_id, stage.kind, stage.error) for stage in stages.values()} == {
        (delivery.span_id, "internal", None)
    }
    chat = next(span for span in spans if span.name.startswith("chat "))
    assert (chat.parent_id, chat.kind, chat.error) == (stages["rerank"].span_id, "client", None)
    model = site.llm.requests[-1]["model"]
    assert chat.attributes == {
        **chat.attributes,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": site.llm.stats.prompt_tokens,
        "gen_ai.usage.output_tokens": site.llm.stats.completion_tokens,
        "songs_ai.llm.n_requests": 1,
    }
    sent = {name.lower(): value for name, value in site.llm.headers[-1].items()}["traceparent"]
    context = read_traceparent(sent)
    assert context is not None
    assert (context.trace_id, context.span_id) == (TRACE, chat.span_id)
    statements = [span for span in spans if span.attributes.get("db.system.name") in ("mysql", "mariadb")]
    assert {stages["listener"].span_id, stages["hydrate"].span_id} <= {span.parent_id for span in statements}
    assert all(str(span.attributes["db.query.text"]).startswith(span.name) for span in statements)
    round_trips = [span for span in spans if span.attributes.get("db.system.name") == "redis"]
    assert stages["save"].span_id in {span.parent_id for span in round_trips}
    assert {span.parent_id for span in spans} <= {span.span_id for span in spans} | {PARENT}
    # What was said of the job in its log lines leads to it.
    assert {line["trace_id"] for line in log if line.get("job_id") == body["jobId"]} == {"the publisher's own name"}
    # And nothing in it is anybody's business.
    told = collector.raw
    for secret in (json.dumps(site.llm.requests[-1]["messages"])[-200:-100], "Song number", SECRET, '"memberId"'):
        assert secret.encode() not in told
    assert {str(each["service.name"]) for each in collector.resources} == {"songs-ai"}
    assert {str(each["service.instance.id"]) for each in collector.resources} == {str(log[-1]["worker_id"])}
    assert {headers["x-key"] for headers in collector.headers} == {SECRET}


def lines_of(process: WorkerProcess) -> list[Document]:
    return [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]


async def test_what_fails_is_told_and_a_retry_and_a_dead_letter_go_on_below_it(
    site: Site, collector: OtlpReceiver
) -> None:
    async with (
        faulty_wire(site.environment["DATABASE_URL"]) as database,
        worker({**site.environment, "DATABASE_URL": database.url}) as process,
    ):
        fallen_back = await the_llm_fails(site, collector)
        await nobody_asked_for_a_trace(site, collector)
        await one_is_asked_for_by_http(site, process, collector)
        await database.cut()
        given_up = job_body(8, [3, 4, 5], traceId=f"00-{'5' * 32}-{'6' * 16}-01")
        await publish(site, given_up)
        letter = await dead_letter(site)
        spans = await one_delivery(collector, "5" * 32, 2)
    assert fallen_back.trace_id in {span.trace_id for span in collector.spans}
    first, second = delivered(spans, "5" * 32)
    assert (first.parent_id, second.parent_id) == ("6" * 16, first.span_id)
    assert [each.attributes["songs_ai.outcome"] for each in (first, second)] == ["retried", "dead_lettered"]
    assert [each.error for each in (first, second)] == ["dependency_unavailable", "attempts_used_up"]
    assert [each.attributes["songs_ai.job.attempt"] for each in (first, second)] == [0, 1]
    failed = [span for span in spans if span.name == "listener"]
    assert {(span.parent_id, span.error) for span in failed} == {
        (each.span_id, "DEPENDENCY_UNAVAILABLE") for each in (first, second)
    }
    context = read_traceparent(letter.headers["traceparent"])
    assert context is not None
    assert (context.trace_id, context.span_id) == ("5" * 32, second.span_id)


async def the_llm_fails(site: Site, collector: OtlpReceiver) -> Span:
    """A job of a publisher who knows of UUIDs alone; the span of its call."""
    trace_id = uuid.uuid4()
    body = job_body(7, [3, 4, 5], traceId=str(trace_id))
    site.llm.fail(Fault.UNAUTHORIZED)
    await publish(site, body)
    await site.backend.wait([body["jobId"]], 20, until={"succeeded"})
    site.llm.heal()
    spans = await one_delivery(collector, trace_id.hex)
    chat = next(span for span in spans if span.name.startswith("chat "))
    assert chat.error == chat.attributes["error.type"] is not None
    (delivery,) = delivered(spans, trace_id.hex)
    assert (delivery.parent_id, delivery.error) == ("", None)
    return chat


async def nobody_asked_for_a_trace(site: Site, collector: OtlpReceiver) -> None:
    """Where the publisher has decided not to sample, nothing is sent; without any word, the job's id names a trace."""
    unsampled, silent = job_body(9, [3, 4, 5]), job_body(10, [3, 4, 5])
    await publish(site, unsampled, traceparent=f"00-{'7' * 32}-{'8' * 16}-00")
    await site.backend.wait([unsampled["jobId"]], 20, until={"succeeded"})
    await publish(site, silent)
    spans = await one_delivery(collector, trace_id_of(silent["jobId"]))
    assert delivered(spans, trace_id_of(silent["jobId"]))[0].parent_id == ""
    assert collector.of("7" * 32) == []


async def one_is_asked_for_by_http(site: Site, process: WorkerProcess, collector: OtlpReceiver) -> None:
    """From the client's span through the route and the queue to the worker."""
    trace_id, parent = "a" * 32, "b" * 16
    async with process.client() as client:
        for path in ("/health", "/metrics"):
            await client.get(path, headers={"traceparent": f"00-{trace_id}-{parent}-01"})
        answer = await client.post(
            "/recommend",
            json={"memberId": 11, "favorite_song_ids": [3, 4]},
            headers={"traceparent": f"00-{trace_id}-{parent}-01"},
        )
    assert answer.status_code == 200
    spans = await one_delivery(collector, trace_id)
    await collector.wait(lambda spans: any(span.kind == "server" for span in spans))
    (request,) = [span for span in collector.of(trace_id) if span.kind == "server"]
    (sent,) = [span for span in spans if span.kind == "producer"]
    (delivery,) = delivered(spans, trace_id)
    assert (request.name, request.parent_id) == ("POST /recommend", parent)
    assert request.attributes["http.response.status_code"] == 200
    assert sent.parent_id == request.span_id
    assert delivery.parent_id == sent.span_id


async def test_a_collector_that_is_away_costs_no_job_and_no_shutdown_its_time(
    site: Site, collector: OtlpReceiver
) -> None:
    collector.status = 400
    bodies = [job_body(member, [3, 4, 5]) for member in range(20)]
    async with worker(site.environment) as process:
        await site.backend.publish(bodies)
        statuses = await site.backend.wait([body["jobId"] for body in bodies], 30)
        assert {fields["status"] for fields in statuses.values()} == {"succeeded"}
        await until(lambda: _holds(collector.n_requests > 0), within_s=20)
        await until(lambda: _holds("traces_not_exported" in process.log), within_s=20)
        began_s = time.monotonic()
        assert await process.terminate() == 0
        assert time.monotonic() - began_s < 15
        assert process.log.count("traces_not_exported") == 1
    events = {line["event"] for line in lines_of(process)}
    assert events <= {str(event) for event in LogEvent}, "a library said something of its own"


async def _holds(condition: bool) -> bool:
    return condition
