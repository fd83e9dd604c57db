"""A collector of traces for tests: OTLP over HTTP, read by OpenTelemetry's own protobuf messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.loopback_http import serving


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it was received; ids are hex, ``parent_id`` empty where it has none."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, object]
    error: str | None
    seconds: float


@dataclass
class OtlpReceiver:
    """Keeps spans, resources and headers; answers ``status`` instead of taking them where that is set."""

    url: str = ""
    status: int = 200
    n_requests: int = 0
    spans: list[Span] = field(default_factory=list)
    resources: list[Mapping[str, object]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    raw: bytes = b""

    async def take(self, request: web.Request) -> web.Response:
        self.n_requests += 1
        self.headers.append(dict(request.headers))
        body = await request.read()
        if self.status != 200:
            return web.Response(status=self.status)
        self.raw += body
        message = ExportTraceServiceRequest.FromString(body)
        self.resources += [_values(each.resource.attributes) for each in message.resource_spans]
        self.spans += _spans(message)
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    async def wait(self, done: Callable[[list[Span]], bool], within_s: float = 20.0) -> list[Span]:
        """All spans so far, once ``done`` says that they are enough."""
        async with asyncio.timeout(within_s):
            while not done(self.spans):  # noqa: ASYNC110 - what sends them is another program
                await asyncio.sleep(0.05)
        return list(self.spans)

    def of(self, trace_id: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


def _spans(message: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in message.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_values(span.attributes),
                    error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )


def _values(pairs: "Iterator[KeyValue] | list[KeyValue]") -> Mapping[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[OtlpReceiver]:
    """On a loopback port of its own; ``url`` is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set to."""
    receiver, app = OtlpReceiver(), web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", receiver.take)
    async with serving(app) as receiver.url:
        yield receiver
