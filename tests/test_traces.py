"""Traces, apart from what a whole worker makes of them."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from pydantic import SecretStr

from config.settings import Settings
from core.errors import ConfigurationError, DependencyUnavailable, LanguageModelFailed
from core.ports.language_model import CallUse
from models.log_event import LogEvent
from services.traces import CLOSE_WITHIN_S, Traces, _ShareOfTraces, _Telling, open_traces
from tests.support.otlp_receiver import OtlpReceiver, Span, otlp_receiver
from tests.support.private_servers import free_port
from tests.support.worker_process import ROOT
from workers.runtime.tracing import open_tracing

EventDict = MutableMapping[str, Any]


@pytest.fixture
async def collector() -> AsyncIterator[OtlpReceiver]:
    async with otlp_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def traces_to(url: str, share: float = 1.0) -> AsyncIterator[Traces]:
    async with open_traces(url, headers={}, service="songs-ai", version="9.9", worker_id="w1", share=share) as traces:
        yield traces


def by_name(collector: OtlpReceiver) -> dict[str, Span]:
    return {span.name: span for span in collector.spans}


async def test_what_is_left_is_sent_at_the_end(collector: OtlpReceiver) -> None:
    async with traces_to(collector.url) as traces:
        with traces.stage("rank"):
            pass
    assert [span.name for span in collector.spans] == ["rank"]
    assert collector.resources[0]["service.version"] == "9.9"


async def test_the_path_of_the_signal_may_be_in_the_endpoint_already(collector: OtlpReceiver) -> None:
    async with traces_to(f"{collector.url}/v1/traces") as traces:
        with traces.stage("rank"):
            pass
    assert [span.name for span in collector.spans] == ["rank"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DependencyUnavailable("mysql", "at mysql://me:pa55word@host"), "DEPENDENCY_UNAVAILABLE"),
        (LanguageModelFailed("timeout", "the prompt was: a secret"), "timeout"),
        (ValueError("pa55word"), "ValueError"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
async def test_what_fails_is_named_by_its_kind_and_never_by_its_words(
    collector: OtlpReceiver, error: BaseException, kind: str
) -> None:
    async with traces_to(collector.url) as traces:
        with pytest.raises(type(error)), traces.stage("rank"):
            raise error
    (span,) = collector.spans
    assert (span.error, span.attributes["error.type"]) == (kind, kind)
    assert b"pa55word" not in collector.raw
    assert b"secret" not in collector.raw


async def test_spans_of_jobs_side_by_side_do_not_mix(collector: OtlpReceiver) -> None:
    together = asyncio.Barrier(5)

    async def job(traces: Traces, name: str) -> None:
        body = json.dumps({"jobId": name, "memberId": 1}).encode()
        with traces.delivery(f"q-{name}", headers={}, body=body, redelivered=False) as ended:
            await together.wait()
            with traces.stage(name):
                await together.wait()
            ended("acked", "succeeded")

    async with traces_to(collector.url) as traces, asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(job(traces, f"j{number}"))
    spans = by_name(collector)
    for number in range(5):
        stage, delivery = spans[f"j{number}"], spans[f"process q-j{number}"]
        assert (stage.trace_id, stage.parent_id) == (delivery.trace_id, delivery.span_id)
    assert len({span.trace_id for span in collector.spans}) == 5


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"jobId":"\\ud800","memberId":1,"traceId":"\\udfff"}'])
async def test_whatever_a_message_holds_its_span_can_be_sent(collector: OtlpReceiver, body: bytes) -> None:
    async with traces_to(collector.url) as traces:
        with traces.delivery("q", headers={"traceparent": 7}, body=body, redelivered=True) as ended:
            ended("dead_lettered", "invalid")
    (span,) = collector.spans
    assert (span.name, span.error, span.parent_id) == ("process q", "invalid", "")
    assert span.attributes["messaging.rabbitmq.message.redelivered"] is True


async def test_a_call_that_failed_says_what_it_used(collector: OtlpReceiver) -> None:
    use = CallUse(prompt_tokens=7, completion_tokens=3, cached_tokens=2, n_requests=4)
    async with traces_to(collector.url) as traces:
        with pytest.raises(LanguageModelFailed), traces.llm_call("gpt", max_tokens=9, use=use):
            raise LanguageModelFailed("rate_limited", "no")
    (span,) = collector.spans
    assert (span.name, span.kind, span.error) == ("chat gpt", "client", "rate_limited")
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "songs_ai.llm.n_requests": 4,
        "error.type": "rate_limited",
    }


async def test_a_job_of_ours_begins_its_trace_and_carries_it_on(collector: OtlpReceiver) -> None:
    name = str(uuid.uuid4())
    async with traces_to(collector.url) as traces:
        assert traces.carried() == {}
        with traces.publishing("q", job_id=name, trace_id=None) as headers:
            carried = dict(headers)
        with traces.delivery("q", headers=carried, body=b"", redelivered=False) as ended:
            ended("acked", "succeeded")
    spans = by_name(collector)
    assert spans["send q"].trace_id == spans["process q"].trace_id == uuid.UUID(name).hex
    assert spans["process q"].parent_id == spans["send q"].span_id


# --- what is sampled ---


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_of_traces_that_are_named_by_uuids_the_share_is_sampled_too(share: float) -> None:
    sampler, n = _ShareOfTraces(share), 4000
    chosen = [sampler.should_sample(None, uuid.uuid4().int, "x").decision for _ in range(n)]
    found = chosen.count(Decision.RECORD_AND_SAMPLE) / n
    assert found == share if share in (0, 1) else abs(found - share) < 0.04


async def test_of_a_trace_either_all_spans_are_sent_or_none(collector: OtlpReceiver) -> None:
    async with traces_to(collector.url, share=0.5) as traces:
        for number in range(60):
            body = json.dumps({"jobId": f"job {number}", "memberId": 1}).encode()
            with traces.delivery("q", headers={}, body=body, redelivered=False), traces.stage("rank"):
                pass
    names = [span.name for span in collector.spans]
    assert 5 < names.count("process q") < 55
    assert names.count("process q") == names.count("rank")


# --- a collector in trouble ---


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


@asynccontextmanager
async def hanging_collector() -> AsyncIterator[str]:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        server.close()


@asynccontextmanager
async def no_collector() -> AsyncIterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("trouble", [no_collector, hanging_collector])
async def test_a_collector_in_trouble_holds_nothing_up(
    trouble: Callable[[], AbstractAsyncContextManager[str]], logs: list[EventDict]
) -> None:
    async with trouble() as url, AsyncExitStack() as stack:
        traces = await stack.enter_async_context(traces_to(url))
        began_s = time.monotonic()
        for _ in range(500):
            with traces.stage("rank"):
                pass
        assert time.monotonic() - began_s < 1
        await stack.aclose()
        assert time.monotonic() - began_s < CLOSE_WITHIN_S + 2
    assert {entry["event"] for entry in logs} <= {LogEvent.TRACES_NOT_EXPORTED}


def test_that_spans_are_not_taken_is_said_once_and_that_they_are_again(logs: list[EventDict]) -> None:
    exporter = _Scripted()
    telling = _Telling(exporter)
    for exporter.answer in (_OK, _NOT, _NOT, ValueError("its words"), _OK, _OK, ValueError("its words")):
        assert telling.export([]) is (_OK if exporter.answer is _OK else _NOT)
    told = [(entry["event"], entry.get("error")) for entry in logs]
    assert told == [
        (LogEvent.TRACES_NOT_EXPORTED, "the collector did not take them"),
        (LogEvent.TRACES_EXPORTED_AGAIN, None),
        (LogEvent.TRACES_NOT_EXPORTED, "ValueError"),
    ]


_OK, _NOT = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class _Scripted(SpanExporter):
    answer: SpanExportResult | Exception = _OK

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# --- the settings ---

_STARTED_WITHOUT = """
import asyncio, sys
from config.settings import Settings
from core.tracing import NO_TRACING
from workers.runtime import process
from workers.runtime.parts import open_parts
from services import language_model

async def main():
    async with open_parts(Settings(_env_file=None, database_url="sqlite:///:memory:")) as parts:
        assert parts.tracing is NO_TRACING
asyncio.run(main())
found = [name for name in sys.modules if name == "services.traces" or name.startswith("opentelemetry.exporter")]
sys.exit(", ".join(found) or 0)
"""


def test_without_a_collector_nothing_of_traces_is_imported_and_no_part_is_wrapped() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", _STARTED_WITHOUT]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_file_alone_imports_opentelemetry() -> None:
    packages = ("api", "commands", "config", "core", "models", "services", "training", "workers")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    imports = re.compile(r"^\s*(from|import) opentelemetry", re.MULTILINE)
    found = [path.name for path in files if imports.search(path.read_text())]
    assert found == ["traces.py"]


async def test_without_a_collector_there_is_no_tracing() -> None:
    async with open_tracing(Settings(), "1") as traces:
        assert traces is None


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "/v1/traces"])
async def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT must be such as"):
        async with open_tracing(Settings(otel_exporter_otlp_endpoint=endpoint), "1"):
            pass


async def test_headers_that_are_none_are_refused_without_quoting_them() -> None:
    settings = Settings(
        otel_exporter_otlp_endpoint="http://127.0.0.1:1", otel_exporter_otlp_headers=SecretStr("pa55word")
    )
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS must be such as") as caught:
        async with open_tracing(settings, "1"):
            pass
    assert "pa55word" not in str(caught.value)


async def test_headers_are_sent_as_they_were_before_they_were_quoted(collector: OtlpReceiver) -> None:
    settings = Settings(
        otel_exporter_otlp_endpoint=collector.url,
        otel_exporter_otlp_headers=SecretStr("Authorization=Basic%20eA==, x-scope=a"),
    )
    async with open_tracing(settings, "1") as traces:
        assert traces is not None
        with traces.stage("rank"):
            pass
    sent = {name.lower(): value for name, value in collector.headers[0].items()}
    assert (sent["authorization"], sent["x-scope"]) == ("Basic eA==", "a")


async def test_a_missing_extra_is_named_with_the_file_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "services.traces")
    settings = Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"is missing: pip install -r requirements-trace\.txt"):
        async with open_tracing(settings, "1"):
            pass
