"""What happens, as traces: one `match` over the events of `observe`, and a span around what is asked and written.

The only import of OpenTelemetry, which is not always installed. docs/tracing.md lists the spans.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, Token
from threading import Thread
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

from taskctl.access import redacted
from taskctl.errors import ConfigError, TaskctlError
from taskctl.observe import TRACE, BatchCommitted, Event, ReadShared, RedisDone, RequestBegun, RequestDone, StatementDone
from taskctl.tasks import (
    CacheStats,
    Changeset,
    ChangesSince,
    GetStats,
    GetTask,
    History,
    IdempotencyKey,
    Labels,
    Projects,
    Query,
    Read,
    Remembering,
    Source,
    T,
    TaskQuery,
    TaskService,
    Written,
)

try:
    from opentelemetry import trace
    from opentelemetry.context import Context as Carried
    from opentelemetry.context import attach, detach
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagate import extract
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
    from opentelemetry.util.types import Attributes
except ImportError as e:
    raise ConfigError("tracing needs more than is installed: pip install 'taskctl[otel]'") from e

PATH_MAX: Final = 200
"""Characters of the path of a request."""
LINKS_MAX: Final = 100
"""Others that a span names. A transaction may have a thousand; what is told of it is to stay small."""
FLUSH_SECONDS: Final = 5.0
"""How long a server that stops may take to send what waits."""

_ASKED: Final[Mapping[type[Query[Any]], str]] = {
    GetTask: "read task",
    TaskQuery: "read list",
    History: "read history",
    ChangesSince: "read changes",
    Projects: "read projects",
    Labels: "read labels",
    GetStats: "read stats",
}


class _Request(NamedTuple):
    """A request that is being answered: its span, and what takes back that it is the current one."""

    span: Span
    before: Token[Carried]
    trace_before: Token[str]


_REQUEST: Final[ContextVar[_Request | None]] = ContextVar("taskctl.request", default=None)


class Tracing:
    """Makes spans of what happens.

    version: of taskctl. database: its kind, as OpenTelemetry names it. provider: takes the spans; None: the one that the program
    has set. `observe` is an observer, for any thread where a StatementDone is told, and else for that of the event loop.
    """

    def __init__(self, version: str, database: str, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("taskctl", version, provider)
        self._database = database

    def around(self, tasks: TaskService) -> TaskService:
        """Return a service, with a span around everything that is asked of it and written to it."""
        return (_TracedMemory if isinstance(tasks, Remembering) else _TracedTasks)(tasks, self._tracer)

    def observe(self, event: Event) -> None:
        """Make the span of an event, if somebody's span is current that is kept."""
        match event:
            case RequestBegun():
                self._begin(event)
            case RequestDone():
                self._end(event)
            case StatementDone(sql, rows, seconds, name, failed):
                about: Attributes = {"db.system.name": self._database, "db.query.text": sql, "taskctl.rows": rows}
                self._told(f"statement {name}", seconds, about, failed=failed)
            case RedisDone(command, keys, seconds, failed):
                about = {"db.system.name": "redis", "db.operation.name": command, "taskctl.keys": keys}
                self._told(f"redis {command}", seconds, about, failed=failed)
            case BatchCommitted(_, changesets, operations, _, seconds):
                about = {"taskctl.changesets": changesets, "taskctl.operations": operations}
                self._told("commit", seconds, about, SpanKind.INTERNAL, event.contexts)
            case ReadShared(contexts, seconds):
                self._told("shared", seconds, {"taskctl.questions": len(contexts)}, SpanKind.INTERNAL, contexts)
            case _:
                pass

    def _told(
        self,
        name: str,
        seconds: float,
        about: Attributes,
        kind: SpanKind = SpanKind.CLIENT,
        contexts: Sequence[Context] = (),
        *,
        failed: bool = False,
    ) -> None:
        """Make the span of what has just ended. contexts: of all that it was done for; it is linked with all but the first."""
        if not trace.get_current_span().is_recording():
            return
        others = [span for context in contexts[1 : LINKS_MAX + 1] if (span := context.run(trace.get_current_span)).is_recording()]
        ended = time.time_ns()
        links = [Link(span.get_span_context()) for span in others]
        span = self._tracer.start_span(name, kind=kind, attributes=about, links=links, start_time=ended - int(seconds * 1e9))
        for other in others:
            other.add_link(span.get_span_context())
        if failed:
            _fail(span, "_OTHER")
        span.end(ended)

    def _begin(self, event: RequestBegun) -> None:
        method = event.method if event.method in _METHODS else "_OTHER"
        about = {"http.request.method": method, "url.scheme": event.scheme}
        if event.route:
            about["http.route"] = event.route
        # In somebody else's application the request may be in a trace already.
        ours = trace.get_current_span().get_span_context().is_valid
        carried = None if ours else extract(event.headers)
        name = f"{method if method != '_OTHER' else 'HTTP'} {event.route}".rstrip()
        span = self._tracer.start_span(name, carried, SpanKind.SERVER, about)
        before = attach(trace.set_span_in_context(span, carried))
        trace_id = trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else ""
        _REQUEST.set(_Request(span, before, TRACE.set(trace_id)))

    def _end(self, event: RequestDone) -> None:
        request = _REQUEST.get()
        if request is None:  # it was refused before it was one
            return
        _REQUEST.set(None)
        TRACE.reset(request.trace_before)
        detach(request.before)
        span = request.span
        if not span.is_recording():
            return
        span.set_attribute("url.path", redacted(event.path[: 2 * PATH_MAX])[:PATH_MAX])
        span.set_attribute("http.response.status_code", event.status)
        span.set_attribute("http.request.body.size", event.received)
        span.set_attribute("http.response.body.size", event.sent)
        span.set_attribute("taskctl.request_id", event.request_id)
        named = {"client.address": event.address, "taskctl.workspace": event.workspace, "taskctl.token": event.token}
        span.set_attributes({name: value for name, value in named.items() if value})
        if event.status >= 500:
            _fail(span, str(event.status))
        span.end()


_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))


class _TracedTasks(TaskService):
    """The tasks of another service, with a span around each question and each write."""

    def __init__(self, inner: TaskService, tracer: trace.Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        return type(self)(self._inner.scoped(actor=actor, source=source, workspace=workspace), self._tracer)

    async def ready(self) -> None:
        await self._inner.ready()

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        if _is_dropped():
            return await self._inner.ask(query, at=at, fresh=fresh)
        with self._span(_ASKED.get(type(query), "read")) as span:
            try:
                read = await self._inner.ask(query, at=at, fresh=fresh)
            except TaskctlError as e:
                _tell_origin(span, e)
                raise
            _tell_origin(span, read)
            return read

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        if _is_dropped():
            return await self._inner.write(changes, key=key)
        with self._span("write") as span:
            span.set_attribute("taskctl.operations", len(changes.operations))
            return await self._inner.write(changes, key=key)

    @contextmanager
    def _span(self, name: str) -> Iterator[Span]:
        # A task that is not there, or was changed meanwhile, is no failure of ours: so we say what is one.
        current = self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)
        with current as span:
            try:
                yield span
            except TaskctlError as e:
                if e.status >= 500:
                    _fail(span, e.code)
                raise
            except Exception as e:
                _fail(span, type(e).__qualname__)
                raise


class _TracedMemory(_TracedTasks, Remembering):
    """The same around a service that remembers."""

    _inner: Any

    def remembered(self) -> CacheStats:
        stats: CacheStats = self._inner.remembered()
        return stats

    async def forget(self) -> None:
        await self._inner.forget()


def _is_dropped() -> bool:
    """Return whether we are in a trace that is not kept, and so nothing in it would be."""
    around = trace.get_current_span()
    return around.get_span_context().is_valid and not around.is_recording()


def _tell_origin(span: Span, answer: Read[Any] | TaskctlError) -> None:
    """Tell which memory an answer is from, in the words of the metrics; nothing where there is none."""
    if answer.origin is not None:
        tier, why, _ = answer.origin
        span.set_attributes({"taskctl.cache.tier": tier or "database", "taskctl.cache.outcome": why})


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


@asynccontextmanager
async def exporting(version: str) -> AsyncIterator[TracerProvider]:
    """Give what sends spans by OTLP, as OpenTelemetry's variables in the environment say, and send the last ones at the end.

    Raises ConfigError for what they ask for and is not to be had.
    """
    for name, usual in (
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    ):
        if (said := os.environ.get(name, "")) not in ("", usual):
            raise ConfigError(f"{name} is {said!r}, and traces are sent by {usual} only")
    ours = {"service.name": "taskctl", "service.version": version, "service.instance.id": str(uuid4())}
    said_already = OTELResourceDetector().detect().attributes
    resource = Resource.create({name: value for name, value in ours.items() if name not in said_already})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider
    finally:
        # The thread is left to itself when it takes too long: a receiver that is away keeps no server from stopping.
        last = Thread(target=provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH_SECONDS)
