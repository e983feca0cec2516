"""Traces: what a request waited for is in its own trace, what several share is linked, and nothing secret is in any of it."""

import asyncio
import itertools
import json
import re
import socket
import sqlite3
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, get_args
from urllib.request import Request, urlopen

import pytest
from aiohttp import ClientTimeout, web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from taskctl import NewTask, Settings, create_app, open_tasks, wiring
from taskctl.access import new_secret
from taskctl.observe import RedisDone, Statement, StatementDone, ignore
from taskctl.tasks import GetTask, Remembering
from taskctl.tracing import LINKS_MAX, Tracing
from tests.postgres import Cluster, database
from tests.redis import emptied
from tests.support import SECONDS, Api, Shell, added, serving

ROOT: Final = Path(__file__).parent.parent
KEPT: Final = "00-{:032x}-00000000000000aa-01"
UNKEPT: Final = "00-{:032x}-00000000000000aa-00"


# --------------------------------------------------------------------------------------------------- within this process


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def taken(self) -> Sequence[ReadableSpan]:
        """Return those since the last time."""
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        return spans


def parent_of(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> ReadableSpan | None:
    """Return the parent of a span, None if it is a caller's or there is none."""
    [*found] = [one for one in spans if span.parent is not None and one.context.span_id == span.parent.span_id]
    assert all(one.context.trace_id == span.context.trace_id for one in found)
    return found[0] if found else None


def tree(spans: Sequence[ReadableSpan]) -> dict[str, str | None]:
    """Return the names of spans with those of their parents."""
    return {span.name: parent.name if (parent := parent_of(span, spans)) is not None else None for span in spans}


@asynccontextmanager
async def traced(settings: Settings) -> AsyncIterator[tuple[Api, Spans]]:
    """Serve in this process, and give a client with the spans."""
    spans = Spans()
    async with TestClient(TestServer(wiring.build_app(settings, ignore, spans.provider))) as api:
        yield api, spans


@asynccontextmanager
async def everything(**more: Any) -> AsyncIterator[tuple[Api, Spans]]:
    """Serve on PostgreSQL with both caches, and begin when answers are remembered."""
    with database() as url, emptied() as redis:
        settings = Settings(database_url=url, redis_url=redis, redis_tasks=True, tracing=True, **more)
        async with traced(settings) as (api, spans):
            while True:
                async with api.get("/api/v1/tasks") as answer:
                    if "unfollowed" not in answer.headers["Cache-Status"]:
                        break
            spans.taken()
            yield api, spans


async def test_a_question_shows_which_caches_were_asked_and_the_statement() -> None:
    async with everything() as (api, spans):
        await (await api.get("/api/v1/tasks?status=done")).read()
        first = spans.taken()
        await (await api.get("/api/v1/tasks?status=done")).read()
        second = spans.taken()
    assert tree(first) == {
        "GET /api/v1/tasks": None,
        "read list": "GET /api/v1/tasks",
        "redis MGET": "read list",
        "statement list": "read list",
    }
    assert tree(second) == {"GET /api/v1/tasks": None, "read list": "GET /api/v1/tasks"}
    told = [dict(span.attributes or {}) for spans in (first, second) for span in spans if span.name == "read list"]
    assert told == [
        {"taskctl.cache.tier": "database", "taskctl.cache.outcome": "miss"},
        {"taskctl.cache.tier": "memory", "taskctl.cache.outcome": "hit"},
    ]
    [statement] = [span for span in first if span.name == "statement list"]
    about = dict(statement.attributes or {})
    assert about.pop("db.query.text")
    assert about == {"db.system.name": "postgresql", "taskctl.rows": 1}
    assert statement.kind is SpanKind.CLIENT


async def test_a_write_shows_its_transaction(tmp_path: Path) -> None:
    async with traced(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", tracing=True)) as (api, spans):
        await added(api)
        told = spans.taken()
    assert tree(told) == {
        "POST /api/v1/tasks": None,
        "write": "POST /api/v1/tasks",
        "commit": "write",
        "statement named": "write",
        "statement write": "write",
        "statement commit": "write",
    }
    [root] = [span for span in told if span.kind is SpanKind.SERVER]
    about = dict(root.attributes or {})
    assert about.pop("taskctl.request_id")
    assert about == {
        "http.request.method": "POST",
        "http.route": "/api/v1/tasks",
        "url.path": "/api/v1/tasks",
        "url.scheme": "http",
        "http.response.status_code": 201,
        "http.request.body.size": len(json.dumps({"title": "Buy milk"})),
        "http.response.body.size": about["http.response.body.size"],
        "client.address": "127.0.0.1",
        "taskctl.workspace": "default",
    }
    for span in told:
        assert span.start_time is not None
        assert span.end_time is not None
        assert root.start_time is not None
        assert root.end_time is not None
        assert span.start_time <= span.end_time <= root.end_time


async def test_what_several_share_is_with_the_first_and_linked_with_the_others() -> None:
    async with everything() as (api, spans):
        task = await added(api)
        spans.taken()
        await asyncio.gather(*(added(api, title=f"{n}") for n in range(30)))
        written = spans.taken()
        fresh = {"Cache-Control": "no-cache"}
        answers = await asyncio.gather(*(api.get(f"/api/v1/tasks/{task['id']}", headers=fresh) for _ in range(30)))
        for answer in answers:
            await answer.read()
        read = spans.taken()
    for told, shared, count in ((written, "commit", "taskctl.changesets"), (read, "shared", "taskctl.questions")):
        by_id = {span.context.span_id: span for span in told}
        many = [span for span in told if span.name == shared and span.links]
        assert many, [span.name for span in told]
        for span in many:
            assert span.attributes is not None
            assert len(span.links) == span.attributes[count] - 1  # type: ignore[operator]
            assert span.context.trace_id not in {link.context.trace_id for link in span.links}
            for link in span.links:
                other = by_id[link.context.span_id]
                assert other.name == ("write" if shared == "commit" else "read task")
                assert span.context.span_id in {back.context.span_id for back in other.links}
        assert_everybody_finds(told)


def assert_everybody_finds(those: Sequence[ReadableSpan], spans: Sequence[ReadableSpan] = ()) -> None:
    """See that whoever asked or wrote finds the statement or the transaction, in the own trace or by a link. spans: all."""
    spans = spans or those
    by_id = {span.context.span_id: span for span in spans}
    near: defaultdict[int, set[str]] = defaultdict(set)
    for span in spans:
        if span.parent is not None:
            near[span.parent.span_id].add(span.name)
    wanted = {"write": {"commit"}, "read task": {"shared", "statement task"}, "read list": {"shared", "statement list"}}
    for span in those:
        if span.name in wanted:
            found = near[span.context.span_id] | {by_id[link.context.span_id].name for link in span.links}
            assert found & wanted[span.name], (span.name, span.attributes, found)


async def test_nothing_ends_up_in_a_trace_of_somebody_else() -> None:
    """Many requests at once, each in a trace of its own: what is told in one is what that one has asked for."""
    async with everything(database_connections=3) as (api, spans):
        ids = [(await added(api, title=f"task {n}"))["id"] for n in range(20)]
        spans.taken()

        async def one(number: int) -> None:
            headers = {"traceparent": KEPT.format(number), "Cache-Control": "no-cache"}
            match number % 4:
                case 0:
                    sent = api.get(f"/api/v1/tasks/{ids[number % len(ids)]}", headers=headers)
                case 1:
                    sent = api.get(f"/api/v1/tasks?limit={1 + number % 100}", headers=headers)
                case 2:
                    sent = api.post("/api/v1/tasks", json={"title": f"{number}"}, headers={"traceparent": headers["traceparent"]})
                case _:
                    sent = api.get(
                        f"/api/v1/tasks/{ids[number % len(ids)]}/history", headers={"traceparent": headers["traceparent"]}
                    )
            async with sent as answer:
                assert answer.status < 300
                await answer.read()

        await asyncio.gather(*(one(number) for number in range(1, 401)))
        told = spans.taken()
    names: defaultdict[int, set[str]] = defaultdict(set)
    for span in told:
        names[span.context.trace_id].add(span.name)
        parent = parent_of(span, told)
        assert parent is not None or span.kind is SpanKind.SERVER, span.name
    allowed = (
        {"GET /api/v1/tasks/{id}", "read task", "shared", "statement task", "redis MGET"},
        {"GET /api/v1/tasks", "read list", "shared", "statement list", "statement plan", "redis MGET"},
        {
            "POST /api/v1/tasks",
            "write",
            "commit",
            "redis MGET",
            *(f"statement {name}" for name in ("named", "keys", "write", "commit")),
        },
        {"GET /api/v1/tasks/{id}/history", "read history", "shared", "statement history", "redis MGET"},
    )
    assert set(names) == set(range(1, 401))
    assert_everybody_finds(told)
    assert {number: told - allowed[number % 4] for number, told in names.items() if told - allowed[number % 4]} == {}


async def test_the_background_is_in_no_trace_and_no_probe_makes_one() -> None:
    """The feed goes on for all who ask, and Redis is filled for all; who happened to begin it has long got an answer."""
    async with everything() as (api, spans):
        await added(api)
        counts: dict[str, int] = {}
        while counts.get("feed", 0) < 3 or counts.get("EVALSHA", 0) < 1:  # nobody tells
            async with api.get("/metrics") as answer:
                found = re.findall(r'duration_seconds_count\{(?:statement|command)="(\w+)"\} (\d+)', await answer.text())
            counts = {name: int(count) for name, count in found}
            await asyncio.sleep(0.05)
        await (await api.get("/readyz")).read()
        told = spans.taken()
    assert {span.name for span in told if span.name.partition(" ")[0] in ("redis", "GET")} == set()
    assert {span.name for span in told} >= {"POST /api/v1/tasks", "write", "commit"}
    assert "statement feed" not in {span.name for span in told}


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_what_is_shared_with_somebody_whose_trace_is_not_kept_is_in_one_that_is(kind: str) -> None:
    async with everything() as (api, spans):
        task = await added(api)
        spans.taken()

        async def one(number: int) -> None:
            headers = {"traceparent": (KEPT if number % 10 == 9 else UNKEPT).format(number + 1), "Cache-Control": "no-cache"}
            if kind == "read":
                sent = api.get(f"/api/v1/tasks/{task['id']}", headers=headers)
            else:
                sent = api.post("/api/v1/tasks", json={"title": "x"}, headers=headers)
            async with sent as answer:
                assert answer.status < 300

        for _ in range(5):
            await asyncio.gather(*(one(number) for number in range(60)))
        told = spans.taken()
    assert {span.context.trace_id % 10 for span in told} == {0}
    assert_everybody_finds(told)


async def test_what_is_shared_with_somebody_who_has_left_is_found_by_those_who_have_not(programs: Spans) -> None:
    tracer = trace.get_tracer("program")
    with database() as url:
        async with open_tasks(url, settings=Settings(tracing=True)) as tasks:
            task = await tasks.add(NewTask(title="x"))
            programs.taken()

            async def asked(how: Any) -> None:
                with tracer.start_as_current_span("asked"):
                    await how()

            ways = (lambda: tasks.get(task.id), lambda: tasks.add(NewTask(title="y")))
            for how, steps in itertools.product(ways, range(1, 11)):  # it leaves before it is sent, or while it is on its way
                first, *others = [asyncio.create_task(asked(how)) for _ in range(5)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                first.cancel()
                await asyncio.gather(first, *others, return_exceptions=True)
    told = programs.taken()
    assert len([span for span in told if span.name == "asked"]) == 100
    gone = {span.context.span_id for span in told if (span.attributes or {}).get("error.type") == "cancelled"}
    assert gone
    assert_everybody_finds([span for span in told if span.context.span_id not in gone], told)


async def test_of_many_all_find_what_they_share_though_it_names_a_hundred(programs: Spans, tmp_path: Path) -> None:
    tracer = trace.get_tracer("program")
    async with open_tasks(f"sqlite:///{tmp_path}/tasks.db", settings=Settings(tracing=True)) as tasks:
        task = await tasks.add(NewTask(title="x"))
        programs.taken()

        async def asked() -> None:
            with tracer.start_as_current_span("asked"):
                await tasks.get(task.id)

        await asyncio.gather(*(asked() for _ in range(160)))
    told = programs.taken()
    [shared] = [span for span in told if span.name == "shared"]
    assert len(shared.links) == LINKS_MAX
    assert_everybody_finds(told)


async def test_only_what_is_our_fault_has_failed() -> None:
    cluster = Cluster()
    try:
        settings = Settings(database_url=cluster.tasks(), tracing=True, database_timeout=1)
        async with traced(settings) as (api, spans):
            await (await api.get("/api/v1/tasks/7")).read()
            await (await api.get("/nowhere")).read()
            good = spans.taken()
            cluster.stop()
            async with api.get("/api/v1/tasks/7", headers={"Cache-Control": "no-cache"}) as answer:
                assert answer.status == 503
            bad = spans.taken()
            cluster.start()
            while (await api.get("/api/v1/tasks/7")).status != 404:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
            after = spans.taken()
    finally:
        cluster.close()
    assert {span.name for span in good} >= {"GET /api/v1/tasks/{id}", "GET"}
    assert {span.status.status_code for span in good} == {StatusCode.UNSET}
    assert not [span.events for span in (*good, *bad) if span.events]  # an exception's words may be anything
    failed = {span.name: (span.attributes or {}).get("error.type") for span in bad if span.status.status_code is StatusCode.ERROR}
    assert failed.items() >= {("GET /api/v1/tasks/{id}", "503"), ("read task", "unavailable")}
    assert "database" in next(span.status.description or "" for span in bad if span.name == "read task")
    traces = {span.context.trace_id for span in bad}
    assert not [span.name for span in after if span.context.trace_id in traces]  # to come back is for all


def test_a_statement_that_failed_is_told_as_such() -> None:
    spans = Spans()
    tracing = Tracing("1", "sqlite", spans.provider)
    with spans.provider.get_tracer("x").start_as_current_span("around"):
        tracing.observe(StatementDone("SELECT 1", 0, 0.1, "list", failed=True))
        tracing.observe(RedisDone("MGET", 1, 0.1, failed=True))
    told = spans.taken()[:2]
    assert [(span.name, span.status.status_code) for span in told] == [
        ("statement list", StatusCode.ERROR),
        ("redis MGET", StatusCode.ERROR),
    ]
    assert {(span.attributes or {})["error.type"] for span in told} == {"_OTHER"}
    assert [(span.end_time or 0) - (span.start_time or 0) for span in told] == [100_000_000] * 2


async def test_a_method_that_nobody_knows_names_no_span(tmp_path: Path) -> None:
    async with traced(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", tracing=True)) as (api, spans):
        assert (await api.request("PROPFIND", "/api/v1/tasks")).status == 405
        [span] = [span for span in spans.taken() if span.kind is SpanKind.SERVER]
    assert span.name == "HTTP"
    about = dict(span.attributes or {})
    assert (about["http.request.method"], about["http.request.method_original"]) == ("_OTHER", "PROPFIND")


async def test_a_request_that_is_cancelled_has_its_span(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    spans = Spans()
    app = wiring.build_app(Settings(database_url=f"sqlite:///{file}", tracing=True), ignore, spans.provider)
    async with TestClient(TestServer(app)) as api:  # it cancels the handlers of those who hang up
        await added(api)
        spans.taken()
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TimeoutError):
                await api.post("/api/v1/tasks", json={"title": "x"}, timeout=ClientTimeout(total=0.2))
            while not (told := [one for one in spans.taken() if one.kind is SpanKind.SERVER]):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
    [span] = told
    assert (span.name, (span.attributes or {}).get("error.type")) == ("POST /api/v1/tasks", "cancelled")


async def test_a_span_around_the_start_of_a_server_is_not_around_its_requests(tmp_path: Path) -> None:
    spans = Spans()
    app = wiring.build_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", tracing=True), ignore, spans.provider)
    with spans.provider.get_tracer("x").start_as_current_span("startup"):
        client = TestClient(TestServer(app))
        await client.start_server()
    async with client:
        await (await client.get("/api/v1/tasks", headers={"traceparent": KEPT.format(5)})).read()
        await (await client.get("/api/v1/tasks")).read()
    ours = [span.context.trace_id for span in spans.taken() if span.kind is SpanKind.SERVER]
    assert ours[0] == 5
    assert len(set(ours)) == 2


async def test_in_another_application_a_request_belongs_to_its_span(tmp_path: Path) -> None:
    spans = Spans()
    tracer = trace.get_tracer("of the outer application", tracer_provider=spans.provider)

    @web.middleware
    async def outer(request: web.Request, handler: Any) -> web.StreamResponse:
        with tracer.start_as_current_span("outer"):
            response: web.StreamResponse = await handler(request)
            with tracer.start_as_current_span("after"):
                return response

    app = web.Application(middlewares=[outer])
    settings = Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", tracing=True)
    app.add_subapp("/todo/", wiring.build_app(settings, ignore, spans.provider))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/todo/api/v1/tasks", headers={"traceparent": KEPT.format(7)})
        assert answer.status == 200
    told = spans.taken()
    found = tree(told)
    assert found["GET /todo/api/v1/tasks"] == "outer"
    assert found["after"] == "outer"  # ours has ended


async def test_in_another_application_what_that_does_not_keep_is_not_kept(tmp_path: Path) -> None:
    spans = Spans()
    dropping = TracerProvider(sampler=ALWAYS_OFF)

    @web.middleware
    async def outer(request: web.Request, handler: Any) -> web.StreamResponse:
        with dropping.get_tracer("x").start_as_current_span("outer"):
            response: web.StreamResponse = await handler(request)
            return response

    app = web.Application(middlewares=[outer])
    settings = Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", tracing=True)
    app.add_subapp("/t/", wiring.build_app(settings, ignore, spans.provider))
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/t/api/v1/tasks", headers={"traceparent": KEPT.format(7)})).status == 200
    assert spans.taken() == ()


@pytest.fixture(scope="module")
def programs() -> Spans:
    """The tracer provider that this program has set, which can be done once."""
    spans = Spans()
    trace.set_tracer_provider(spans.provider)
    return spans


async def test_a_library_goes_by_the_provider_of_its_program(programs: Spans, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    programs.taken()
    tracer = trace.get_tracer("program")
    async with open_tasks(url, settings=Settings(tracing=True), cached=True) as tasks:
        assert isinstance(tasks, Remembering)
        with tracer.start_as_current_span("work"):
            task = await tasks.add(NewTask(title="Buy milk"))
            assert await tasks.scoped(actor="anna", source="library").get(task.id) == task
        while not tasks.remembered().entries:  # once the log is followed, which nobody tells
            await tasks.get(task.id)
        await tasks.forget()
        assert tasks.remembered().entries == 0
        assert (await tasks.ask(GetTask(task.id))).value == task
    told = programs.taken()
    work = [span for span in told if parent_of(span, told) is not None and parent_of(span, told).name == "work"]  # type: ignore[union-attr]
    assert [span.name for span in work] == ["write", "read task"]
    async with TestClient(TestServer(create_app(Settings(database_url=url, tracing=True)))) as client:
        await (await client.get(f"/api/v1/tasks/{task.id}")).read()
    assert "GET /api/v1/tasks/{id}" in tree(programs.taken())


# ------------------------------------------------------------------------------------------------------ what is promised


def rows() -> Mapping[str, str]:
    """Return the first words of the spans in docs/tracing.md, with what is said of their attributes."""
    text = (ROOT / "docs" / "tracing.md").read_text("utf-8").partition("## What there is to see")[2]
    found = re.findall(r"^\| `(\w+)[^|]*\| (\w+) \| ([^|]*)\|$", text, re.MULTILINE)
    return {f"{kind} {word}": about for word, kind, about in found}


async def test_the_page_lists_the_spans_and_their_attributes(tmp_path: Path) -> None:
    listed = {row: set(re.findall(r"`(taskctl\.[\w.]+)`", about)) for row, about in rows().items()}
    seen: defaultdict[str, set[str]] = defaultdict(set)
    with database() as url, emptied() as redis:
        shell = Shell(tmp_path, TASKCTL_DATABASE_URL=url)
        token = shell("token", "create", "anna", "--scope", "tasks:write").out.strip()
        settings = Settings(database_url=url, redis_url=redis, auth="tokens", tracing=True)
        async with traced(settings) as (api, spans):
            api.session.headers["Authorization"] = f"Bearer {token}"
            for path in ("tasks", "projects", "labels", "stats", "changes"):
                await (await api.get(f"/api/v1/{path}")).read()
            await asyncio.gather(*(added(api, title=f"{n}") for n in range(20)))
            while True:
                async with api.get("/api/v1/tasks") as answer:
                    if "unfollowed" not in answer.headers["Cache-Status"]:
                        break
            await (await api.get("/api/v1/tasks?status=done")).read()
            fresh = {"Cache-Control": "no-cache"}
            answers = await asyncio.gather(*(api.get("/api/v1/tasks/1", headers=fresh) for _ in range(20)))
            await answers[-1].read()
            await (await api.get("/api/v1/tasks/1/history")).read()
            told = spans.taken()
    for span in told:
        word, _, rest = span.name.partition(" ")
        kind = span.kind.name.lower()
        row = f"{kind} {'GET' if kind == 'server' else word}"
        assert row in listed, span.name
        seen[row] |= {name for name in span.attributes or {} if name.startswith("taskctl.")}
        if word == "statement":
            assert rest in get_args(Statement)
    assert seen == listed


# -------------------------------------------------------------------------------------------------------- to a receiver


class Receiver:
    """Takes traces, as OTLP over HTTP has it."""

    def __init__(self) -> None:
        self.raw = b""
        self.resources: list[dict[str, str]] = []
        self.spans: list[Any] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        with self._lock:
            self.raw += body
            for told in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append({one.key: one.value.string_value for one in told.resource.attributes})
                self.spans += [span for scope in told.scope_spans for span in scope.spans]

    def of(self, trace_id: int) -> list[Any]:
        """Return the spans of a trace that have come."""
        return [span for span in self.spans if int.from_bytes(span.trace_id) == trace_id]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join(SECONDS)
        receiver.server.server_close()


def shell_for(folder: Path, receiver: str, **environment: str) -> Shell:
    """Return a shell whose server keeps its tasks in a folder, and sends its traces when it ends, unless it is told otherwise."""
    late = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    return Shell(folder, **{"TASKCTL_DATABASE_URL": f"sqlite:///{folder}/tasks.db", **late, **environment})


def asked(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None, method: str = "GET") -> str:
    with urlopen(Request(url, body, dict(headers or {}), method=method), timeout=SECONDS) as answer:
        return str(answer.read().decode())


def test_traces_reach_their_receiver_and_are_found_from_logs_and_metrics(receiver: Receiver, tmp_path: Path) -> None:
    shell = shell_for(tmp_path, receiver.url, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
    with serving(shell, "--tracing", "--log-format", "json") as server:
        asked(f"{server.url}/api/v1/tasks", {"traceparent": KEPT.format(1), "X-Request-Id": "kept"})
        asked(f"{server.url}/api/v1/projects", {"traceparent": UNKEPT.format(2), "X-Request-Id": "unkept"})
        asked(f"{server.url}/api/v1/labels", {"traceparent": "00-what-ever-it-is", "X-Request-Id": "odd"})
        metrics = asked(f"{server.url}/metrics", {"Accept": "application/openmetrics-text"})
        server.logged('"id":"odd"')
        asked(f"{server.url}/api/v1/stats", {"traceparent": KEPT.format(3), "X-Request-Id": "last"})
        assert receiver.spans == []
        assert server.stop() == 0  # what waits is sent before it ends
        lines = {line["id"]: line for line in map(json.loads, server.log) if line["event"] == "request"}
    assert {span.name for span in receiver.of(1)} >= {"GET /api/v1/tasks", "read list", "statement list"}
    assert {span.name for span in receiver.of(3)} >= {"GET /api/v1/stats", "read stats", "statement stats"}
    assert receiver.of(2) == []
    [ours] = {tuple(sorted(resource.items())) for resource in receiver.resources}
    assert dict(ours).items() >= {("service.name", "taskctl"), ("deployment.environment.name", "test")}
    assert {"service.version", "service.instance.id"} <= dict(ours).keys()
    assert lines["kept"]["trace_id"] == f"{1:032x}"
    assert "trace_id" not in lines["unkept"]
    assert lines["odd"]["trace_id"]  # it is in a trace of its own
    bucket = r'^http_server_request_duration_seconds_bucket{{.*http_route="/api/v1/{}".*}} \d+ # {{(.*)}} '
    assert re.findall(bucket.format("tasks"), metrics, re.MULTILINE) == [f'trace_id="{1:032x}",request_id="kept"']
    assert re.findall(bucket.format("projects"), metrics, re.MULTILINE) == ['request_id="unkept"']


def test_what_is_refused_before_it_is_a_request_is_in_no_trace_of_the_one_before(receiver: Receiver, tmp_path: Path) -> None:
    with serving(shell_for(tmp_path, receiver.url), "--tracing", "--log-format", "json") as server:
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as sent, sent.makefile("rb") as answers:
            sent.sendall(b"GET /api/v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert answers.readline().split()[1] == b"200"
            server.logged('"status":200.*"trace_id"')
            sent.sendall(b"GET /api/v1/tasks HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n")
            server.logged('"status":400')
        assert server.stop() == 0
    [line] = [line for line in server.log if '"status":400' in line]
    assert "trace_id" not in line
    assert len([span for span in receiver.spans if span.kind == SpanKind.SERVER.value + 1]) == 1


def test_the_sampler_of_the_environment_decides(receiver: Receiver, tmp_path: Path) -> None:
    shell = shell_for(tmp_path, receiver.url, OTEL_TRACES_SAMPLER="always_off", OTEL_SERVICE_NAME="mine")
    with serving(shell, "--tracing", "--log-format", "json") as server:
        asked(f"{server.url}/api/v1/tasks", {"traceparent": KEPT.format(1)})
        assert server.stop() == 0
        assert not any("trace_id" in line for line in server.log)
    assert receiver.spans == []


def test_no_secret_and_no_text_of_a_user_is_in_a_trace(receiver: Receiver, tmp_path: Path) -> None:
    shell = shell_for(tmp_path, receiver.url)
    token = shell("token", "create", "anna", "--scope", "tasks:write").out.strip()
    stray = new_secret()[1]
    with serving(shell, "--auth", "tokens", "--tracing") as server:
        showing = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "X-Custom": "canary-header"}
        body = json.dumps({"title": "canary-title", "description": "canary-description", "labels": ["canary-label"]})
        asked(f"{server.url}/api/v1/tasks", {**showing, "Idempotency-Key": "canary-key"}, body.encode(), "POST")
        asked(f"{server.url}/api/v1/tasks?q=canary-query", showing)
        asked(f"{server.url}/api/v1/tasks?filter=label:canary-filter", showing)
        encoded = "".join(f"%{ord(c):02x}" for c in stray)
        cut = f"{'x' * 380}://u:hunter2{'y' * 50}@h"
        for path in (f"tasks/{stray}", f"{stray}/x", encoded, "postgresql:%2F%2Fu:hunter2@h/x", cut):
            with pytest.raises(OSError, match="40"):
                asked(f"{server.url}/api/v1/{path}", showing)
        told = {"tracestate": "canary=state", "baggage": ",".join(f"canary{n}" for n in range(500))}
        asked(f"{server.url}/api/v1/tasks", {**showing, **told, "traceparent": KEPT.format(9)})
        assert server.stop() == 0
        assert not any("canary" in line or "aggage" in line for line in server.log)
    assert len([span for span in receiver.spans if span.kind == SpanKind.SERVER.value + 1]) == 9
    for what in ("canary", "hunter2", encoded[:60], token.split("_")[3], stray.split("_")[3]):
        assert what.encode() not in receiver.raw, what


@contextmanager
def silent() -> Iterator[str]:
    """An address at which somebody listens, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refuses", "silent"])
def test_a_receiver_that_is_away_keeps_nobody_from_anything(kind: str, tmp_path: Path) -> None:
    with silent() as quiet:
        # Nothing listens at port 9 of this machine, or all is lost for this test.
        quick = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        shell = shell_for(tmp_path, quiet if kind == "silent" else "http://127.0.0.1:9", **quick)
        with serving(shell, "--tracing") as server:
            for _ in range(20):
                assert asked(f"{server.url}/api/v1/tasks")
            if kind == "refuses":
                server.logged("(?i)export")
            assert server.stop() == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'; otlp or none was expected"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; http/protobuf was expected"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT must be an address such as"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be an address such as"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "max_queue_size must be a positive integer"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be a non-negative integer but got abc"),
        ("OTEL_TRACES_SAMPLER", "bogus", "OTEL_TRACES_SAMPLER is 'bogus'; one of always_on, "),
        ("OTEL_TRACES_SAMPLER_ARG", "0,01", "OTEL_TRACES_SAMPLER_ARG is '0,01'; a number from 0 to 1 was expected"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "OTEL_TRACES_SAMPLER_ARG is '2'; a number from 0 to 1 was expected"),
        ("OTEL_TRACES_SAMPLER_ARG", "", "OTEL_TRACES_SAMPLER_ARG is ''; a number from 0 to 1 was expected"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, value: str, said: str, tmp_path: Path) -> None:
    settings = {"OTEL_TRACES_SAMPLER": "ParentBased_TraceIDRatio", "OTEL_TRACES_SAMPLER_ARG": "0.5", name: value}
    assert said in shell_for(tmp_path, "http://127.0.0.1:9", **settings).fails(2, "serve", "--port", "0", "--tracing")


def test_where_nothing_makes_spans_no_trace_of_a_caller_is_named(receiver: Receiver, tmp_path: Path) -> None:
    with serving(shell_for(tmp_path, receiver.url, OTEL_SDK_DISABLED="true"), "--tracing", "--log-format", "json") as server:
        asked(f"{server.url}/api/v1/tasks", {"traceparent": KEPT.format(1)})
        metrics = asked(f"{server.url}/metrics", {"Accept": "application/openmetrics-text"})
        assert server.stop() == 0
        assert not any("trace_id" in line for line in server.log)
    assert "trace_id" not in metrics
    assert receiver.spans == []


def test_traces_may_be_kept_and_sent_nowhere(tmp_path: Path) -> None:
    with serving(shell_for(tmp_path, "", OTEL_TRACES_EXPORTER="none"), "--tracing", "--log-format", "json") as server:
        asked(f"{server.url}/api/v1/tasks")
        server.logged('"trace_id":"[0-9a-f]{32}"')
        assert server.stop() == 0
