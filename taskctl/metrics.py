"""What happens, for Prometheus: one `match` over the events of `taskctl.observe`. docs/metrics.md lists what it tells.

aioprometheus keeps the collectors, their names and kinds. What it lacks is here: it escapes nothing, knows neither OpenMetrics
nor exemplars, and takes microseconds for each number. So on the path of a request there are plain numbers and a bisect, the
collectors are asked only when somebody scrapes, and the two formats are written here.
"""

import asyncio
import gc
import os
import platform
import re
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import accumulate
from threading import Lock
from typing import Any, Final, NamedTuple, TypeAlias, get_args

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter

from taskctl.access import redacted
from taskctl.observe import (
    Audited,
    BatchCommitted,
    DatabaseAway,
    DatabaseBack,
    Event,
    FeedPolled,
    RateLimited,
    Reading,
    RedisDone,
    RequestDone,
    Statement,
    StatementDone,
    TasksCounted,
)

if sys.platform != "win32":
    import resource

OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OTHER: Final = "_OTHER"
"""A method that is not known, and the route of what fits none."""
API: Final = "/api/v1/"
"""What the routes of the API have in them, under whatever prefix the application is mounted."""
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))
REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUICK_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LEAD_SECONDS: Final = tuple(float(hours * 3600) for hours in (0.25, 1, 4, 12, 24, 72, 168, 336, 720, 2160, 8760))
SIZES: Final = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)
CHANGESETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
LAG_EVERY: Final = 0.25
GATHERED: Final = 64
"""Requests that are counted at once: one by one, each would find the processor's caches full of other things, and take thrice the
time."""
EXEMPLAR_MAX: Final = 128
"""Characters that the labels of an exemplar may have, names and values together."""

_Key: TypeAlias = tuple[str, ...]
_Exemplar: TypeAlias = tuple[str, float]
"""The id of a request, and how long it took."""


# ---------------------------------------------------------------------------------------------------------- the collectors


class _Counter(Counter):
    """A counter whose numbers are plain, by the values of its labels; or are read when somebody scrapes."""

    def __init__(self, registry: Registry, name: str, doc: str, *labels: str) -> None:
        super().__init__(name, doc, registry=registry)
        self.labels = labels
        self.numbers: dict[_Key, float] = {}
        self.read: Callable[[], Reading] | None = None

    def add_up(self, amount: float = 1, *key: str) -> None:
        """Add an amount."""
        self.numbers[key] = self.numbers.get(key, 0) + amount

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        return _read(self)


class _Gauge(Gauge):
    """A gauge in the same way."""

    def __init__(self, registry: Registry, name: str, doc: str, *labels: str) -> None:
        super().__init__(name, doc, registry=registry)
        self.labels = labels
        self.numbers: dict[_Key, float] = {}
        self.read: Callable[[], Reading] | None = None

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        return _read(self)


def _read(of: _Counter | _Gauge) -> list[tuple[dict[str, str], Any]]:
    numbers: Mapping[_Key, float] = of.numbers
    if of.read is not None:
        reading = of.read()
        numbers = reading if isinstance(reading, Mapping) else {(): reading}
    return [(dict(zip(of.labels, key, strict=True)), number) for key, number in numbers.items()]


class _Cell:
    """What was observed for one set of labels.

    counts: how much fell into each bucket, not into those below it. exemplars: the last one in each.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: list[_Exemplar | None] = [None] * len(self.counts)

    def observe(self, value: float) -> None:
        """Observe a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Histogram(Histogram):
    """A histogram in the same way."""

    def __init__(self, registry: Registry, name: str, doc: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__(name, doc, registry=registry, buckets=bounds)
        self.labels = labels
        self.cells: dict[_Key, _Cell] = {}

    def cell(self, *key: str) -> _Cell:
        """Return what is known of these values of the labels."""
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = _Cell(self.upper_bounds)
        return cell

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        found: list[tuple[dict[str, str], Any]] = []
        for key, cell in self._used():
            counts = list(accumulate(cell.counts))
            value: dict[float | str, float] = dict(zip((*cell.bounds, float("inf")), counts, strict=True))
            found.append((dict(zip(self.labels, key, strict=True)), {**value, "count": counts[-1], "sum": cell.sum}))
        return found

    def _used(self) -> list[tuple[_Key, _Cell]]:
        """Return what is told: without labels always, so that it begins at 0."""
        return [(key, cell) for key, cell in list(self.cells.items()) if not key or any(cell.counts)]

    def exemplars(self) -> list[list[_Exemplar | None]]:
        """Return those of each of `get_all`, bucket by bucket."""
        return [list(cell.exemplars) for _, cell in self._used()]


# ------------------------------------------------------------------------------------------------------------- the formats


class Text(TextFormatter):
    """The text format 0.0.4, with what may stand in a label or a help escaped."""

    def marshall_lines(self, collector: Collector) -> list[str]:
        """Return the lines of a collector, none if there is nothing in it."""
        found: list[tuple[dict[str, str], Any]] = collector.get_all()
        if not found:
            return []
        family = self._family(collector)
        lines = [f"# HELP {family} {self._help(collector.doc)}", f"# TYPE {family} {collector.kind.name}"]
        name = collector.name
        if not isinstance(collector, Histogram):
            return [*lines, *(f"{name}{_braced(_told(labels))} {_number(value)}" for labels, value in found)]
        marks = self._exemplars(collector, len(found))
        for (labels, value), exemplars in zip(found, marks, strict=False):
            told = _told(labels)
            before = f"{told}," if told else ""
            bounds = [bound for bound in value if isinstance(bound, float)]
            lines += [
                f'{name}_bucket{{{before}le="{_number(bound)}"}} {value[bound]}{mark}'
                for bound, mark in zip(bounds, exemplars, strict=False)
            ]
            lines += [f"{name}_{part}{_braced(told)} {_number(value[part])}" for part in ("count", "sum")]
        return lines

    def marshall(self, registry: Registry) -> bytes:
        """Return all collectors of a registry, each with its lines."""
        return "".join(f"{line}\n" for collector in registry.get_all() for line in self.marshall_lines(collector)).encode()

    def _family(self, collector: Collector) -> str:
        return collector.name

    def _help(self, text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n")

    def _exemplars(self, collector: Histogram, count: int) -> Sequence[Sequence[str]]:
        return [[""] * (len(collector.upper_bounds) + 1)] * count


class OpenMetrics(Text):
    """OpenMetrics 1.0: counters lose their `_total` where they are named, buckets have exemplars, and the end is told."""

    def get_headers(self) -> dict[str, str]:
        """Return the header that says which format this is."""
        return {"Content-Type": OPEN_METRICS}

    def marshall(self, registry: Registry) -> bytes:
        """Return all collectors of a registry, and that there are no more."""
        return super().marshall(registry) + b"# EOF\n"

    def _family(self, collector: Collector) -> str:
        return collector.name.removesuffix("_total") if isinstance(collector, Counter) else collector.name

    def _help(self, text: str) -> str:
        return _escaped(text)

    def _exemplars(self, collector: Histogram, count: int) -> Sequence[Sequence[str]]:
        if not isinstance(collector, _Histogram):
            return super()._exemplars(collector, count)
        return [[_mark(one) for one in exemplars] for exemplars in collector.exemplars()]


def _mark(exemplar: _Exemplar | None) -> str:
    if exemplar is None:
        return ""
    request_id, value = exemplar
    name = "request_id"
    # Whoever asks may choose it: it may be long, or what should be in no log.
    if len(name) + len(request_id) > EXEMPLAR_MAX or redacted(request_id) != request_id:
        return ""
    return f' # {{{name}="{_escaped(request_id)}"}} {_number(value)}'


def _told(labels: Mapping[str, str]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])


def _braced(told: str) -> str:
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    if _PLAIN.fullmatch(value):  # as nearly always
        return value
    value = value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return repr(value)


def wants_open_metrics(accept: str) -> bool:
    """Return whether an Accept asks for OpenMetrics 1.0 at least as much as for the text format."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        media, *params = (one.strip() for one in part.split(";"))
        given = {name.strip().lower(): value.strip().strip('"') for name, _, value in (one.partition("=") for one in params)}
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            continue
        if media.lower() == "application/openmetrics-text" and given.get("version", "1.0.0") != "1.0.0":
            continue
        media = "text/plain" if media in ("*/*", "text/*") else media.lower()
        if media in wanted:
            wanted[media] = max(wanted[media], weight)
    return 0 < wanted["application/openmetrics-text"] >= wanted["text/plain"]


# ------------------------------------------------------------------------------------------------------------- the metrics


class _Route(NamedTuple):
    """The histograms of one method, route and status."""

    seconds: _Cell
    received: _Cell
    sent: _Cell


class Metrics:
    """Counts what happens in one process, and tells it. version: of taskctl.

    `observe` is an observer; it may be called by any thread with a StatementDone, and by that of the event loop with the others.
    """

    def __init__(self, version: str) -> None:
        self._registry = registry = Registry()
        self._families: dict[str, _Counter | _Gauge] = {}
        self._lock = Lock()
        self._gathered: list[RequestDone] = []
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._counted = 0.0
        self._wanted: Callable[[], None] = _nothing

        def counter(name: str, doc: str, *labels: str) -> _Counter:
            family = self._families[name] = _Counter(registry, name, doc, *labels)
            return family

        def gauge(name: str, doc: str, *labels: str) -> _Gauge:
            family = self._families[name] = _Gauge(registry, name, doc, *labels)
            return family

        def histogram(name: str, doc: str, bounds: Sequence[float], *labels: str) -> _Histogram:
            return _Histogram(registry, name, doc, bounds, *labels)

        route = "http_request_method", "http_route"
        seconds = "http_server_request_duration_seconds"
        status = "http_response_status_code"
        self._seconds = histogram(seconds, "Until the answer to a request was ready.", REQUEST_SECONDS, *route, status)
        gauge("http_server_active_requests", "Requests that have no answer yet.")
        self._received = histogram("http_server_request_body_size_bytes", "Bodies of requests that were read.", SIZES, *route)
        self._sent = histogram("http_server_response_body_size_bytes", "Bodies of answers.", SIZES, *route)
        self._failed = counter("taskctl_requests_failed_total", "Requests to the API answered with 5xx.", status)
        self._limited = counter("taskctl_rate_limited_total", "Requests refused by a limit.", "limit")
        self._refused = counter("taskctl_tokens_refused_total", "Tokens shown that are worth nothing.", "reason")
        self._created = counter("taskctl_tokens_created_total", "Tokens made through this server.")
        self._revoked = counter("taskctl_tokens_revoked_total", "Tokens revoked through this server.")

        self._tasks = gauge("taskctl_tasks", "Tasks in the database, over all workspaces.", "status")
        self._overdue = gauge("taskctl_tasks_overdue", "Open tasks past their due, in UTC.")
        self._oldest = gauge("taskctl_oldest_open_task_age_seconds", "Since the oldest open task was created.")
        self._age = gauge("taskctl_tasks_age_seconds", "Since the tasks in the database were counted.")
        self._added = counter("taskctl_tasks_created_total", "Tasks added through this server.")
        self._completed = counter("taskctl_tasks_completed_total", "Tasks that became done through this server.")
        self._lead = histogram("taskctl_task_lead_time_seconds", "From created to done.", LEAD_SECONDS).cell()

        self._up = gauge("taskctl_database_up", "0 while the database is known to be away.")
        statements = "taskctl_database_statement_duration_seconds"
        self._statements = histogram(statements, "Round trips to the database.", QUICK_SECONDS, "statement")
        failures = "taskctl_database_statement_failures_total"
        self._statements_failed = counter(failures, "Round trips to the database that failed.", "statement")
        gauge("taskctl_database_connections", "Connections to PostgreSQL.", "pool", "state")
        gauge("taskctl_database_connection_waiters", "Who waits for one.", "pool")
        self._commit = histogram("taskctl_commit_duration_seconds", "Transactions that wrote tasks.", QUICK_SECONDS).cell()
        self._changesets = histogram("taskctl_commit_changesets", "Changesets in a transaction.", CHANGESETS).cell()
        self._operations = counter("taskctl_commit_operations_total", "Operations in all transactions.")
        gauge("taskctl_commit_waiting_operations", "Operations that wait to be written, or are being written.")

        counter("taskctl_cache_requests_total", "Questions, by what answered and why.", "tier", "outcome")
        gauge("taskctl_cache_entries", "Answers held in memory.")
        gauge("taskctl_cache_bytes", "About how much they take.")
        self._polls = histogram("taskctl_feed_poll_duration_seconds", "Looks at the logs.", QUICK_SECONDS).cell()
        self._failures = counter("taskctl_feed_failures_total", "Looks at the logs that failed.")
        self._entries = counter("taskctl_feed_entries_total", "Entries of the logs that were new.")
        self._behind = gauge("taskctl_feed_behind_entries", "Entries that the last look left to be read.")
        gauge("taskctl_feed_followed_workspaces", "Workspaces whose logs are followed.")
        gauge("taskctl_feed_lag_seconds", "How old what is known of the logs may be.")
        gauge("taskctl_feed_lease_held", "Whether the cache may answer for all of them.")
        gauge("taskctl_redis_breaker_open", "Whether Redis is left alone.")
        trips = "taskctl_redis_round_trip_duration_seconds"
        self._trips = histogram(trips, "Round trips to Redis, by their first command.", QUICK_SECONDS, "command")
        self._trips_failed = counter("taskctl_redis_failures_total", "Round trips that failed or were refused.", "command")
        counter("taskctl_redis_dropped_total", "Answers that were not put into Redis.")

        build = gauge("taskctl_build_info", "Which taskctl this is.", "version", "python")
        build.numbers[version, platform.python_version()] = 1
        self._lag = histogram("taskctl_event_loop_lag_seconds", "By how much a timer was late.", LAG_SECONDS).cell()
        _add_process(counter, gauge)

        # What has a few known values begins at 0: a rate needs two numbers.
        for family, values in _KNOWN.items():
            self._families[family].numbers.update(((value,), 0) for value in values)
        for name in _FROM_NOTHING:
            self._families[name].numbers[()] = 0
        self._up.numbers[()] = 1

    # ------------------------------------------------------------------------------------------------------ what happens

    def observe(self, event: Event) -> None:
        """Count an event."""
        match event:
            case RequestDone():
                self._gathered.append(event)
                if len(self._gathered) >= GATHERED:
                    self._count_requests()
            case StatementDone():
                with self._lock:  # SQLite's threads tell these
                    self._statements.cell(event.name).observe(event.seconds)
                    self._statements_failed.add_up(event.failed, event.name)
            case BatchCommitted():
                self._commit.observe(event.seconds)
                self._changesets.observe(event.changesets)
                self._operations.add_up(event.operations)
                self._added.add_up(event.created)
                self._completed.add_up(len(event.leads))
                for lead in event.leads:
                    self._lead.observe(lead)
            case RedisDone():
                self._trips.cell(event.command).observe(event.seconds)
                self._trips_failed.add_up(event.failed, event.command)
            case FeedPolled():
                self._polls.observe(event.seconds)
                self._failures.add_up(event.failed)
                self._entries.add_up(event.entries)
                self._behind.numbers[()] = event.behind
            case RateLimited():
                self._limited.add_up(1, event.limit)
            case Audited("refused"):
                self._refused.add_up(1, event.why)
            case Audited("created", why=""):  # else it is not known whether it happened
                self._created.add_up()
            case Audited("revoked", why=""):
                self._revoked.add_up()
            case TasksCounted():
                self._tasks.numbers.update(((status,), count) for status, count in event.counts.items())
                self._overdue.numbers[()] = event.overdue
                self._oldest.numbers[()] = event.oldest_seconds
                self._counted = time.monotonic()
            case DatabaseAway():
                self._up.numbers[()] = 0
            case DatabaseBack():
                self._up.numbers[()] = 1
            case _:
                pass

    def _count_requests(self) -> None:
        """Count the requests that have gathered."""
        known = self._routes.get
        for method, _, route, status, seconds, request_id, _, _, _, received, sent, _ in self._gathered:
            cell, read, written = known((method, route, status)) or self._route(method, route, status)
            if status >= 500 and API in route:
                self._failed.add_up(1, str(status))
            bucket = bisect_left(REQUEST_SECONDS, seconds)
            cell.counts[bucket] += 1
            cell.sum += seconds
            cell.exemplars[bucket] = request_id, seconds
            if sent:
                written.counts[bisect_left(SIZES, sent)] += 1
                written.sum += sent
            if received:
                read.observe(received)
        self._gathered.clear()

    def _route(self, method: str, route: str, status: int) -> _Route:
        known = method if method in METHODS else OTHER
        named = known, route or OTHER
        found = _Route(self._seconds.cell(*named, str(status)), self._received.cell(*named), self._sent.cell(*named))
        if known is method:  # else anybody could fill the memory with methods
            self._routes[method, route, status] = found
        return found

    def _since_counted(self) -> float:
        return time.monotonic() - self._counted

    # ------------------------------------------------------------------------------------------------------ what is told

    def gauges(self, name: str, read: Callable[[], Reading]) -> None:
        """Have a metric read whenever somebody scrapes."""
        self._families[name].read = read

    def wanted(self, want: Callable[[], None]) -> None:
        """Have somebody who counts the tasks told of every scrape."""
        self._wanted = want
        # Before the first count, too: else a count that never succeeds would have no age, and nobody would miss it.
        self._counted = time.monotonic()
        self._age.read = self._since_counted

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Return everything in the format that an Accept asks for, and the content type of that."""
        self._wanted()
        self._count_requests()
        formatter = OpenMetrics() if wants_open_metrics(accept) else Text()
        return formatter.get_headers()["Content-Type"], formatter.marshall(self._registry)

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Look meanwhile how late the event loop is."""
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _sample(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(LAG_EVERY)
            self._lag.observe(max(0.0, time.perf_counter() - started - LAG_EVERY))


def _nothing() -> None:
    pass


_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "taskctl_requests_failed_total": ("500", "503", "507"),
    "taskctl_database_statement_failures_total": get_args(Statement),
    "taskctl_rate_limited_total": ("token", "address", "failures"),
    "taskctl_tokens_refused_total": ("malformed", "unknown", "expired", "revoked"),
}
_FROM_NOTHING: Final = (
    "taskctl_tokens_created_total",
    "taskctl_tokens_revoked_total",
    "taskctl_tasks_created_total",
    "taskctl_tasks_completed_total",
    "taskctl_commit_operations_total",
    "taskctl_feed_failures_total",
    "taskctl_feed_entries_total",
    "taskctl_feed_behind_entries",
)


# ------------------------------------------------------------------------------------------------------------- the process


def _add_process(counter: Callable[..., _Counter], gauge: Callable[..., _Gauge]) -> None:
    """Add what all programs tell of their process and their Python."""

    def collected(what: str) -> Callable[[], Reading]:
        return lambda: {(str(number),): generation[what] for number, generation in enumerate(gc.get_stats())}

    counter("process_cpu_seconds_total", "Processor time, of user and system.").read = time.process_time
    for name, what, doc in _COLLECTED:
        counter(name, doc, "generation").read = collected(what)
    if sys.platform != "win32":
        gauge("process_max_fds", "How many files and connections there may be.").read = _files_max
    if sys.platform == "linux":
        page = os.sysconf("SC_PAGE_SIZE")
        gauge("process_resident_memory_bytes", "Memory.").read = lambda: int(_stat()[21]) * page
        gauge("process_virtual_memory_bytes", "Address space.").read = lambda: int(_stat()[20])
        gauge("process_open_fds", "Open files and connections.").read = _files
        started = _started()
        gauge("process_start_time_seconds", "When it started, since 1970.").read = lambda: started


_COLLECTED: Final = (
    ("python_gc_collections_total", "collections", "Runs of the garbage collector."),
    ("python_gc_objects_collected_total", "collected", "Objects that it freed."),
    ("python_gc_objects_uncollectable_total", "uncollectable", "Objects that it could not free."),
)


def _files() -> float:
    return sum(1 for _ in os.scandir("/proc/self/fd")) - 1  # without the one that this takes


def _files_max() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _stat() -> Sequence[bytes]:
    """Return /proc/self/stat, without the number and the name, which may have anything in it."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # it is no path of anybody's
        return file.read().rpartition(b")")[2].split()


def _started() -> float:
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot + int(_stat()[19]) / os.sysconf("SC_CLK_TCK")
