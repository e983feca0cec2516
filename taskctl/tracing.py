"""What happens, as traces: one `match` over the events of `observe`, and a span around what is asked and written.

The only import of OpenTelemetry, which is not always installed. docs/tracing.md lists the spans.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context, ContextVar, Token
from threading import Thread
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import uuid4

from taskctl.access import redacted, told_path
from taskctl.errors import ConfigError, TaskctlError
from taskctl.observe import (
    METHODS,
    PROBES,
    TRACE,
    BatchCommitted,
    Event,
    ReadShared,
    RedisDone,
    RequestBegun,
    RequestCut,
    RequestDone,
    StatementDone,
)
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
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import Attributes
except ImportError as e:
    raise ConfigError(f"tracing needs more than is installed: pip install 'taskctl[otel]' (there is no {e.name})") from None
except ValueError as e:  # it reads some of its variables when it is imported
    raise ConfigError(f"OpenTelemetry does not understand one of its variables, OTEL_...: {e}") from e

METHOD_MAX: Final = 40
"""Characters of a method that nobody knows."""
LINKS_MAX: Final = 100
"""Others that the span of shared work names; they all name it. A transaction may have a thousand of them."""
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
_SPAN: Final[ContextVar[Span]] = ContextVar("taskctl.span", default=trace.INVALID_SPAN)
"""The current span of ours; unlike OpenTelemetry's it can be read in contexts that are somebody else's."""
_PARENT: Final = TraceContextTextMapPropagator()


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
            case RequestCut():
                self._cut()
            case StatementDone(sql, rows, seconds, name, failed):
                about: Attributes = {"db.system.name": self._database, "db.query.text": sql, "taskctl.rows": rows}
                self._told(f"statement {name}", seconds, about, failed=failed)
            case RedisDone(command, keys, seconds, failed, contexts):
                about = {"db.system.name": "redis", "db.operation.name": command, "taskctl.keys": keys}
                self._told(f"redis {command}", seconds, about, contexts=contexts, failed=failed)
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
        """Make the span of what has just ended. contexts: of all that it was done for; it is linked with the others."""
        parent = trace.get_current_span()
        if not _is_kept(parent):
            return
        ended, ours = time.time_ns(), parent.get_span_context()
        spans = [context.get(_SPAN, trace.INVALID_SPAN) for context in contexts]
        others = [span for span in spans if _is_kept(span) and span.get_span_context() != ours]
        links = [Link(span.get_span_context()) for span in others[:LINKS_MAX]]
        span = self._tracer.start_span(name, kind=kind, attributes=about, links=links, start_time=ended - int(seconds * 1e9))
        for other in others:
            if other.is_recording():  # else whoever asked has not waited for it
                other.add_link(span.get_span_context())
        if failed:
            _fail(span, "_OTHER")
        span.end(ended)

    def _begin(self, event: RequestBegun) -> None:
        if event.route.endswith(PROBES):
            return
        known = event.method in METHODS
        about = {"http.request.method": event.method if known else "_OTHER", "url.scheme": event.scheme}
        if not known:
            about["http.request.method_original"] = redacted(event.method)[:METHOD_MAX]
        if event.route:
            about["http.route"] = event.route
        # In somebody else's application the request may be in a trace already, kept or not; not in that of a span that has ended,
        # such as one around the start of the server. Of what a caller tells only the place in its trace is taken over: all else
        # (tracestate, baggage) would be sent on as it is, however long.
        carried, around = None, trace.get_current_span()
        if not around.get_span_context().is_valid or getattr(around, "end_time", None) is not None:
            told = event.headers.get("traceparent")
            carried = _PARENT.extract({"traceparent": told} if told else {}, Carried())
        name = f"{event.method if known else 'HTTP'} {event.route}".rstrip()
        span = self._tracer.start_span(name, carried, SpanKind.SERVER, about)
        before = attach(trace.set_span_in_context(span, carried))
        _SPAN.set(span)
        _REQUEST.set(_Request(span, before, TRACE.set(_id_of(span))))

    def _end(self, event: RequestDone) -> None:
        span = _left()
        if span is None or not span.is_recording():  # it was refused before it was one, or is not kept
            return
        span.set_attribute("url.path", told_path(event.path))
        span.set_attribute("http.response.status_code", event.status)
        span.set_attribute("http.request.body.size", event.received)
        span.set_attribute("http.response.body.size", event.sent)
        span.set_attribute("taskctl.request_id", event.request_id)
        named = {"client.address": event.address, "taskctl.workspace": event.workspace, "taskctl.token": event.token}
        span.set_attributes({name: value for name, value in named.items() if value})
        if event.status >= 500:
            _fail(span, str(event.status))
        span.end()

    def _cut(self) -> None:
        span = _left()
        if span is not None:
            span.set_attribute("error.type", "cancelled")
            span.end()


def _left() -> Span | None:
    """Leave the request that is current, and return its span; None if there is none."""
    request = _REQUEST.get()
    if request is None:
        return None
    _REQUEST.set(None)
    _SPAN.set(trace.INVALID_SPAN)
    TRACE.reset(request.trace_before)
    detach(request.before)
    return request.span


def _is_kept(span: Span) -> bool:
    """Return whether a span is sent, or will be: also of one that has ended, for what was done for it ends later at times."""
    about = span.get_span_context()
    return about.is_valid and about.trace_flags.sampled


def _id_of(span: Span) -> str:
    """Return the id of the trace of a span that has just begun, "" if it is not kept.

    Where nothing makes spans, this one stands for the caller's, which may be kept, but not by us.
    """
    return trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else ""


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
            before, trace_before = _SPAN.set(span), TRACE.set(_id_of(span))
            try:
                yield span
            except TaskctlError as e:
                if e.status >= 500:
                    _fail(span, e.code, redacted(e.detail))
                raise
            except asyncio.CancelledError:
                span.set_attribute("error.type", "cancelled")
                raise
            except Exception as e:
                _fail(span, type(e).__qualname__)
                raise
            finally:
                _SPAN.reset(before)
                TRACE.reset(trace_before)


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
    return around.get_span_context().is_valid and not _is_kept(around)


def _tell_origin(span: Span, answer: Read[Any] | TaskctlError) -> None:
    """Tell which memory an answer is from, in the words of the metrics; nothing where there is none."""
    if answer.origin is not None:
        tier, why, _ = answer.origin
        span.set_attributes({"taskctl.cache.tier": tier or "database", "taskctl.cache.outcome": why})


def _fail(span: Span, kind: str, why: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, why))


@asynccontextmanager
async def exporting(version: str) -> AsyncIterator[TracerProvider]:
    """Give what sends spans by OTLP, as OpenTelemetry's variables in the environment say, and send the last ones at the end.

    Raises ConfigError for what they ask for and is not to be had.
    """
    for name, usual in (
        ("OTEL_TRACES_EXPORTER", ("otlp", "none")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/protobuf",)),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ("http/protobuf",)),
    ):
        if (said := os.environ.get(name, "")) not in ("", *usual):
            raise ConfigError(f"{name} is {said!r}; {' or '.join(usual)} was expected")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if (said := os.environ.get(name, "")) and not _is_address(said):
            raise ConfigError(f"{name} must be an address such as http://collector:4318, not {redacted(said)!r}")
    sampler, share = os.environ.get("OTEL_TRACES_SAMPLER", "").lower(), os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    if sampler not in ("", *_SAMPLERS):  # all would be kept, and only a warning would say so
        raise ConfigError(f"OTEL_TRACES_SAMPLER is {sampler!r}; one of {', '.join(_SAMPLERS)} was expected")
    if "ratio" in sampler and not _is_share(share):
        raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG is {share!r}; a number from 0 to 1 was expected")
    try:
        provider = _provider(version)
    except ValueError as e:
        raise ConfigError(f"OpenTelemetry does not understand one of its variables, OTEL_...: {e}") from e
    try:
        yield provider
    finally:
        # The thread is left to itself when it takes too long: a receiver that is away keeps no server from stopping.
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def send_the_last() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # the loop was not to wait for so long
                loop.call_soon_threadsafe(ended.set)

        Thread(target=send_the_last, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await ended.wait()


_SAMPLERS: Final = tuple(
    f"{parent}{name}" for parent in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)


def _is_share(said: str) -> bool:
    try:
        return 0 <= float(said) <= 1
    except ValueError:
        return False


def _is_address(said: str) -> bool:
    try:
        parts = urlsplit(said)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _provider(version: str) -> TracerProvider:
    """Return what sends spans, as the variables say. Raises ValueError for one that cannot be used."""
    ours = {"service.name": "taskctl", "service.version": version, "service.instance.id": str(uuid4())}
    said_already = OTELResourceDetector().detect().attributes
    resource = Resource.create({name: value for name, value in ours.items() if name not in said_already})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if os.environ.get("OTEL_TRACES_EXPORTER", "") != "none":
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
