"""What happens, for Prometheus: one `match` over the events of `taskctl.observe`. docs/metrics.md lists what it tells."""

import asyncio
import platform
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from threading import Lock
from typing import Final, NamedTuple, get_args

from taskctl.metrics.exposition import (
    Cell,
    OpenMetrics,
    PlainCounter,
    PlainGauge,
    PlainHistogram,
    Registry,
    Text,
    wants_open_metrics,
)
from taskctl.metrics.process import add_process
from taskctl.observe import (
    METHODS,
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

OTHER: Final = "_OTHER"
"""A method that is not known, and the route of what fits none."""
API: Final = "/api/v1/"
"""What the routes of the API have in them, under whatever prefix the application is mounted."""
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


class _Route(NamedTuple):
    """The histograms of one method, route and status."""

    seconds: Cell
    received: Cell
    sent: Cell


class Metrics:
    """Counts what happens in one process, and tells it. version: of taskctl.

    `observe` is an observer; it may be called by any thread with a StatementDone, and by that of the event loop with the others.
    """

    def __init__(self, version: str) -> None:
        self._registry = registry = Registry()
        self._families: dict[str, PlainCounter | PlainGauge] = {}
        self._lock = Lock()
        self._gathered: list[RequestDone] = []
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._counted = 0.0
        self._wanted: Callable[[], None] = _nothing

        def counter(name: str, doc: str, *labels: str) -> PlainCounter:
            family = self._families[name] = PlainCounter(registry, name, doc, *labels)
            return family

        def gauge(name: str, doc: str, *labels: str) -> PlainGauge:
            family = self._families[name] = PlainGauge(registry, name, doc, *labels)
            return family

        def histogram(name: str, doc: str, bounds: Sequence[float], *labels: str) -> PlainHistogram:
            return PlainHistogram(registry, name, doc, bounds, *labels)

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
        add_process(counter, gauge)

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
        for method, _, route, status, seconds, request_id, _, _, _, received, sent, _, trace in self._gathered:
            cell, read, written = known((method, route, status)) or self._route(method, route, status)
            if status >= 500 and API in route:
                self._failed.add_up(1, str(status))
            bucket = bisect_left(REQUEST_SECONDS, seconds)
            cell.counts[bucket] += 1
            cell.sum += seconds
            before = cell.exemplars[bucket]
            if trace or before is None or not before[1]:  # one that leads to a trace stays until there is another one that does
                cell.exemplars[bucket] = request_id, trace, seconds
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
