"""Traces by OpenTelemetry: spans sent to a collector by OTLP over HTTP. Alone here is OpenTelemetry imported.

The names of attributes are those of its semantic conventions, 1.37: messaging, database, generative AI, HTTP.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, cast

import sqlalchemy as sa
import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes
from redis.asyncio import Redis

from core.errors import InvalidMessage, LanguageModelFailed, SongsAIError, encodable
from core.job_codec import decode_job
from core.ports.language_model import CallUse
from core.trace_context import TraceContext, trace_context, trace_id_of
from core.tracing import Answered, Ended
from models.log_event import LogEvent

log = structlog.get_logger()

EXPORT_TIMEOUT_S = 5.0
CLOSE_WITHIN_S = 3.0
_EXPORT_EVERY_MS = 2000
_MAX_WAITING = 8192
_MAX_STATEMENT_CHARS = 300
_PATH = "/v1/traces"
_ALL = 1 << 56
_SERVER_ERROR = 500

_root_trace_id: ContextVar[int | None] = ContextVar("root_trace_id", default=None)


@asynccontextmanager
async def open_traces(
    endpoint: str, *, headers: Mapping[str, str], service: str, version: str, worker_id: str, share: float
) -> AsyncIterator["Traces"]:
    """Spans go to ``endpoint`` (the base URL of OTLP over HTTP), from a thread; what is left is sent at the end.

    Of the traces that begin here a ``share`` is sampled; else what the publisher decided holds.
    """
    url = endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
    # Its own lines would be of no closed list; ``_Telling`` says the same once.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    exporter = _Telling(OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=EXPORT_TIMEOUT_S))
    batches = BatchSpanProcessor(exporter, max_queue_size=_MAX_WAITING, schedule_delay_millis=_EXPORT_EVERY_MS)
    about = {"service.name": service, "service.version": version, "service.instance.id": worker_id}
    provider = TracerProvider(
        sampler=ParentBased(_ShareOfTraces(share)),
        resource=Resource.create(about),
        id_generator=_NamedTraces(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(batches)
    try:
        yield Traces(provider)
    finally:
        # The provider would wait half a minute for a collector that is away.
        closing = asyncio.to_thread(batches._batch_processor.shutdown, round(1000 * CLOSE_WITHIN_S))
        await asyncio.shield(closing)


class Traces:
    """``core.tracing.Tracing`` by the spans of ``provider``, which is no global one: libraries make none with it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("songs-ai")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def delivery(self, queue: str, *, headers: Mapping[str, object], body: bytes, redelivered: bool) -> Iterator[Ended]:
        """See ``Tracing``."""
        said, of_job = _told_by(body)
        about = of_job | {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.body.size": len(body),
            "messaging.rabbitmq.message.redelivered": redelivered,
        }
        with self._below(trace_context(headers, said), f"process {queue}", SpanKind.CONSUMER, about) as span:

            def ended(outcome: str, reason: str) -> None:
                span.set_attributes({"songs_ai.outcome": outcome, "songs_ai.reason": reason})
                if outcome != "acked":
                    _fail(span, reason)

            yield ended

    @contextmanager
    def publishing(self, queue: str, *, job_id: str, trace_id: str | None) -> Iterator[Mapping[str, object]]:
        """See ``Tracing``."""
        about = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "songs_ai.job.id": encodable(job_id),
        }
        is_caused = trace.get_current_span().get_span_context().is_valid
        origin = None if is_caused else trace_context({}, trace_id or trace_id_of(job_id))
        with self._below(origin, f"send {queue}", SpanKind.PRODUCER, about):
            yield self.carried()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See ``Tracing``."""
        with self._span(name, SpanKind.INTERNAL):
            yield

    @contextmanager
    def llm_call(self, model: str, *, max_tokens: int, use: CallUse) -> Iterator[None]:
        """See ``Tracing``."""
        about: dict[str, str | int] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": max_tokens,
        }
        with self._span(f"chat {model}", SpanKind.CLIENT, about) as span:
            try:
                yield
            finally:
                span.set_attributes(
                    {
                        "gen_ai.usage.input_tokens": use.prompt_tokens,
                        "gen_ai.usage.output_tokens": use.completion_tokens,
                        "gen_ai.usage.cache_read.input_tokens": use.cached_tokens,
                        "songs_ai.llm.n_requests": use.n_requests,
                    }
                )

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, object]) -> Iterator[Answered]:
        """See ``Tracing``."""
        about = {"http.request.method": method, "http.route": route}
        with self._below(trace_context(headers, None), f"{method} {route}", SpanKind.SERVER, about) as span:

            def answered(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= _SERVER_ERROR:
                    _fail(span, str(status))

            yield answered

    def carried(self) -> Mapping[str, str]:
        """See ``Tracing``."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    def watch_database(self, engine: sa.Engine) -> None:
        """A span for each statement within another span: its text, in which values are placeholders, and its kind."""

        # Each is called with connection, cursor, statement, parameters, context and whether there are many.
        @sa.event.listens_for(engine, "before_cursor_execute")
        def begin(*arguments: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
            if trace.get_current_span().is_recording():
                arguments[4].trace_span = self._statement(arguments[2], engine.dialect.name)

        @sa.event.listens_for(engine, "after_cursor_execute")
        def end(*arguments: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
            if span := getattr(arguments[4], "trace_span", None):
                span.end()

        @sa.event.listens_for(engine, "handle_error")
        def failed(context: sa.engine.ExceptionContext) -> None:
            if span := getattr(context.execution_context, "trace_span", None):
                _fail(span, type(context.original_exception).__name__)
                span.end()

    def _statement(self, statement: str, system: str) -> Span:
        kind = statement.lstrip()[:20].split(None, 1)[0].upper()
        about = {
            "db.system.name": system,
            "db.operation.name": kind,
            "db.query.text": statement[:_MAX_STATEMENT_CHARS],
        }
        return self._tracer.start_span(kind, kind=SpanKind.CLIENT, attributes=about)

    def watch_redis(self, client: Redis) -> None:
        """A span for each round trip of ``client`` within another span: which command, and nothing of its keys."""
        execute: Callable[..., Awaitable[object]] = client.execute_command
        open_pipeline: Callable[..., Any] = client.pipeline

        async def traced(*command: Any, **options: Any) -> Any:  # noqa: ANN401 - the library's own
            return await self._round_trip(str(command[0]), 1, lambda: execute(*command, **options))

        def pipeline(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the library's own
            pipe = open_pipeline(*arguments, **options)
            send = pipe.execute

            async def traced_send(raise_on_error: bool = True) -> list[Any]:
                return cast("list[Any]", await self._round_trip("PIPELINE", len(pipe), lambda: send(raise_on_error)))

            pipe.execute = traced_send
            return pipe

        client.execute_command = traced  # type: ignore[method-assign]
        client.pipeline = pipeline  # type: ignore[method-assign]

    async def _round_trip(self, command: str, n: int, send: Callable[[], Awaitable[object]]) -> object:
        if not trace.get_current_span().is_recording():
            return await send()
        about: dict[str, str | int] = {"db.system.name": "redis", "db.operation.name": command}
        if n > 1:
            about["db.operation.batch.size"] = n
        with self._span(command, SpanKind.CLIENT, about):
            return await send()

    @contextmanager
    def _below(
        self, origin: TraceContext | None, name: str, kind: SpanKind, about: Mapping[str, str | int | bool]
    ) -> Iterator[Span]:
        """A span below another program's, or the first of a trace that is named, or as any other where none is."""
        if origin is None or origin.span_id is None:
            token = _root_trace_id.set(int(origin.trace_id, 16) if origin else None)
            try:
                with self._span(name, kind, about) as span:
                    _root_trace_id.set(None)
                    yield span
            finally:
                _root_trace_id.reset(token)
            return
        parent = trace.SpanContext(
            trace_id=int(origin.trace_id, 16),
            span_id=int(origin.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if origin.is_sampled else trace.TraceFlags.DEFAULT),
        )
        within = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        with self._span(name, kind, about, within) as span:
            yield span

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        about: Attributes = None,
        within: Any = None,  # noqa: ANN401 - a Context
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, context=within, kind=kind, attributes=about, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                _fail(span, _kind(error))
                raise


def _told_by(body: bytes) -> tuple[str | None, dict[str, str | int | bool]]:
    """What the job in ``body`` calls its trace, else the id of one that is named by the job; and attributes of both."""
    try:
        job = decode_job(body)
    except InvalidMessage as error:
        if error.job_id is None:
            return None, {}
        return trace_id_of(error.job_id), {"songs_ai.job.id": encodable(error.job_id)}
    about: dict[str, str | int | bool] = {
        "songs_ai.job.id": encodable(job.job_id),
        "songs_ai.job.attempt": job.attempt,
    }
    if not job.trace_id:
        return trace_id_of(job.job_id), about
    return job.trace_id, about | {"songs_ai.job.trace_id": encodable(job.trace_id)}


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, kind))


def _kind(error: BaseException) -> str:
    """Of an error its name alone: its words may be those of a server, and hold anything."""
    match error:
        case LanguageModelFailed():
            return error.reason
        case SongsAIError():
            return error.code
        case _:
            return type(error).__name__


class _NamedTraces(RandomIdGenerator):
    """Ids by chance, but that of a trace which its publisher has named."""

    def generate_trace_id(self) -> int:
        return _root_trace_id.get() or secrets.randbits(128)

    def is_trace_id_random(self) -> bool:
        return False


class _ShareOfTraces(Sampler):
    """Samples a share of the traces by the last 56 bits of their ids, so that every worker decides alike.

    The library's own looks at the last 64, of which a UUID's first two are always 1 and 0: a share below a half would
    sample no trace that is named by one.
    """

    def __init__(self, share: float) -> None:
        self._bound = round(share * _ALL)

    def should_sample(
        self,
        parent_context: Any,  # noqa: ANN401 - a Context
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        is_in = trace_id % _ALL < self._bound
        return SamplingResult(Decision.RECORD_AND_SAMPLE if is_in else Decision.DROP, attributes, trace_state)

    def get_description(self) -> str:
        return f"ShareOfTraces{{{self._bound / _ALL}}}"


class _Telling(SpanExporter):
    """Says once that the collector takes no spans, and once that it does again; it runs in a thread of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - the boundary to a library: spans are lost, and nothing else
            return self._told(SpanExportResult.FAILURE, type(error).__name__)
        return self._told(result, "")

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _told(self, result: SpanExportResult, error: str) -> SpanExportResult:
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            log.warning(LogEvent.TRACES_NOT_EXPORTED, error=error or "the collector did not take them")
        elif self._fails and not fails:
            log.info(LogEvent.TRACES_EXPORTED_AGAIN)
        self._fails = fails
        return result
