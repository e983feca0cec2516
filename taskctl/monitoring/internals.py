"""The dashboard of where the time goes inside."""

from typing import Final

from taskctl.monitoring.grafana import Dashboard, Panel, Query, Row
from taskctl.monitoring.promql import OURS, gauge, per, quantile, spread, total


def _answered(tiers: str) -> str:
    every = total("taskctl_cache_requests_total")
    return f"({total('taskctl_cache_requests_total', more=f',{tiers}')} or 0 * {every})\n/ ({every} > 0)"


INTERNALS: Final = Dashboard(
    "internals",
    "taskctl: inside",
    "Where the time goes: the database, the committer, the caches, the feed that keeps them true, the event loop.",
    "taskctl_build_info",
    (
        Row(
            "The database, as taskctl sees it",
            (
                Panel(
                    "Reached",
                    "Whether every server reaches the database. If not, it answers 503 to what it does not remember.",
                    "short",
                    [Query(gauge("min", "taskctl_database_up", "instance"), "{{instance}}")],
                    high=1,
                    limits=(1, 0.5),
                    kind="stat",
                    decimals=0,
                    words=((0, "away"), (1, "reached")),
                ),
                Panel(
                    "Statements",
                    "Round trips to the database a second, by what they are for (docs/metrics.md).",
                    "ops",
                    [Query(total("taskctl_database_statement_duration_seconds_count", "statement"), "{{statement}}")],
                    stacked=True,
                    width=4,
                ),
                Panel(
                    "Statements that fail",
                    "Round trips a second that the database refused, or did not answer in time. None is usual.",
                    "ops",
                    [Query(total("taskctl_database_statement_failures_total", "statement"), "{{statement}}")],
                    limits=(0.01, 1),
                    width=4,
                ),
                Panel(
                    "Time of statements",
                    "Within what time 95 of 100 round trips came back.",
                    "s",
                    [Query(quantile(0.95, "taskctl_database_statement_duration_seconds", "statement"), "{{statement}}")],
                    limits=(0.1, 0.5),
                ),
                Panel(
                    "Waiting for the database",
                    "Seconds a second that statements take, all together: what keeps the database busy.",
                    "short",
                    [Query(total("taskctl_database_statement_duration_seconds_sum", "statement"), "{{statement}}")],
                    stacked=True,
                ),
                Panel(
                    "Connections",
                    "Connections to PostgreSQL of all servers together.",
                    "short",
                    [Query(gauge("sum", "taskctl_database_connections", "pool, state"), "{{pool}} {{state}}")],
                    nothing="none on SQLite",
                    stacked=True,
                    decimals=0,
                ),
                Panel(
                    "Who waits for a connection",
                    "Requests that wait until a connection is free. Now and then one is nothing; if it stays so, the pools are too small.",
                    "short",
                    [Query(gauge("sum", "taskctl_database_connection_waiters", "instance, pool"), "{{instance}} {{pool}}")],
                    nothing="none on SQLite",
                    limits=(1, 20),
                ),
            ),
        ),
        Row(
            "Writes",
            (
                Panel(
                    "Operations and transactions",
                    "Changes of tasks a second, and the transactions that they are written in: the more come at once, the more share one.",
                    "ops",
                    [
                        Query(total("taskctl_commit_operations_total"), "operations"),
                        Query(total("taskctl_commit_changesets_sum"), "changesets"),
                        Query(total("taskctl_commit_duration_seconds_count"), "transactions"),
                    ],
                    width=6,
                ),
                Panel(
                    "Changesets in a transaction",
                    "How many single writes and batches share one transaction on average, and in the largest of a hundred.",
                    "short",
                    [
                        Query(per("taskctl_commit_changesets_sum", "taskctl_commit_changesets_count"), "average"),
                        Query(quantile(0.99, "taskctl_commit_changesets"), "99 % have at most"),
                    ],
                    nothing="no writes",
                    width=6,
                ),
                Panel(
                    "Time of transactions",
                    "Within what time transactions that write tasks were committed.",
                    "s",
                    spread("taskctl_commit_duration_seconds"),
                    nothing="no writes",
                    limits=(0.1, 0.5),
                    width=6,
                ),
                Panel(
                    "Operations that wait",
                    "Operations that wait to be written, or are being written. At 10,000 further ones are refused.",
                    "short",
                    [Query(gauge("sum", "taskctl_commit_waiting_operations", "instance"), "{{instance}}")],
                    limits=(1000, 10000),
                    width=6,
                ),
            ),
        ),
        Row(
            "Caches",
            (
                Panel(
                    "Questions by what answered",
                    "Questions a second: memory and Redis (hits), or the database, and why. lease: what is remembered might be out of date.",
                    "ops",
                    [Query(total("taskctl_cache_requests_total", "tier, outcome"), "{{tier}} {{outcome}}")],
                    nothing="no questions",
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Answered without the database",
                    "The part of the questions that memory answers, and that memory or Redis does.",
                    "percentunit",
                    [
                        Query(_answered('tier="memory"'), "memory"),
                        Query(_answered('tier=~"memory|redis"'), "memory or Redis"),
                    ],
                    nothing="no questions",
                    high=1,
                    width=6,
                ),
                Panel(
                    "What memory holds",
                    "About how much the remembered answers of each server take; the setting cache_bytes is the most.",
                    "bytes",
                    [Query(gauge("sum", "taskctl_cache_bytes", "instance"), "{{instance}}")],
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Answers held",
                    "How many there are.",
                    "short",
                    [Query(gauge("sum", "taskctl_cache_entries", "instance"), "{{instance}}")],
                    stacked=True,
                    width=6,
                ),
            ),
        ),
        Row(
            "The feed, which tells caches what others have changed",
            (
                Panel(
                    "Lag",
                    "How old what is known of the logs may be. Above 2 s the cache is not used. About half a second is usual.",
                    "s",
                    [Query(gauge("max", "taskctl_feed_lag_seconds", "instance"), "{{instance}}")],
                    nothing="none on SQLite",
                    limits=(1.5, 2),
                ),
                Panel(
                    "The cache may answer",
                    "Which part of the time that was so, on average over five minutes.",
                    "percentunit",
                    [Query(f"min by (instance) (avg_over_time(taskctl_feed_lease_held{{{OURS}}}[5m]))", "{{instance}}")],
                    nothing="none on SQLite",
                    high=1,
                    limits=(0.8, 0.5),
                ),
                Panel(
                    "Looks at the logs",
                    "A second; at least two are usual on PostgreSQL, and more if writes on other servers wake it.",
                    "ops",
                    [
                        Query(total("taskctl_feed_poll_duration_seconds_count", "instance"), "{{instance}}"),
                        Query(total("taskctl_feed_failures_total", "instance"), "{{instance}} failed"),
                    ],
                ),
                Panel(
                    "Time of a look",
                    "Within what time it was over.",
                    "s",
                    spread("taskctl_feed_poll_duration_seconds"),
                    limits=(0.1, 1),
                ),
                Panel(
                    "News",
                    "Entries of the logs a second that were new to a server, its own included; and how many the last look left to be read.",
                    "short",
                    [
                        Query(total("taskctl_feed_entries_total", "instance"), "{{instance}}"),
                        Query(gauge("max", "taskctl_feed_behind_entries", "instance"), "{{instance}} left"),
                    ],
                ),
                Panel(
                    "Workspaces followed",
                    "Workspaces whose logs a server follows, because somebody asked about them lately.",
                    "short",
                    [Query(gauge("sum", "taskctl_feed_followed_workspaces", "instance"), "{{instance}}")],
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Redis, as taskctl sees it",
            (
                Panel(
                    "Used",
                    "Whether Redis is used. It is left alone for a while after it failed several times in a row.",
                    "short",
                    [Query(gauge("max", "taskctl_redis_breaker_open", "instance"), "{{instance}}")],
                    nothing="no Redis",
                    kind="stat",
                    limits=(0.5, 1),
                    words=((0, "used"), (1, "left alone")),
                ),
                Panel(
                    "Round trips to Redis",
                    "A second, by their first command; and those that failed.",
                    "ops",
                    [
                        Query(total("taskctl_redis_round_trip_duration_seconds_count", "command"), "{{command}}"),
                        Query(total("taskctl_redis_failures_total", "command"), "{{command}} failed"),
                        Query(total("taskctl_redis_dropped_total"), "answers not put there"),
                    ],
                    nothing="no Redis",
                ),
                Panel(
                    "Time of round trips to Redis",
                    "Within what time 99 of 100 came back. A slow one is given up after a tenth of a second.",
                    "s",
                    [Query(quantile(0.99, "taskctl_redis_round_trip_duration_seconds", "command"), "{{command}}")],
                    nothing="no Redis",
                    limits=(0.05, 0.1),
                ),
            ),
        ),
        Row(
            "The process",
            (
                Panel(
                    "Event loop lag",
                    "By how much a timer was late in 99 of 100 cases: for so long a request waits before anything is done for it.",
                    "s",
                    [Query(quantile(0.99, "taskctl_event_loop_lag_seconds", "instance"), "{{instance}}")],
                    limits=(0.05, 0.1),
                ),
                Panel(
                    "Processor",
                    "Cores that are busy. A server can use little more than one.",
                    "short",
                    [Query(total("process_cpu_seconds_total", "instance"), "{{instance}}")],
                    limits=(0.8, 0.95),
                ),
                Panel(
                    "Memory",
                    "Resident memory. The compose file ends a server at 512 MiB.",
                    "bytes",
                    [Query(gauge("max", "process_resident_memory_bytes", "instance"), "{{instance}}")],
                    limits=(450e6, 512 * 1024 * 1024),
                ),
                Panel(
                    "Open files and connections",
                    "The part of the file descriptors that is open.",
                    "percentunit",
                    [
                        Query(
                            f"{gauge('max', 'process_open_fds', 'instance')}\n/ {gauge('max', 'process_max_fds', 'instance')}",
                            "{{instance}}",
                        )
                    ],
                    limits=(0.6, 0.8),
                ),
                Panel(
                    "Garbage",
                    "Runs of the garbage collector a second, by generation. Those of generation 2 hold everything up for longest.",
                    "ops",
                    [Query(total("python_gc_collections_total", "generation"), "generation {{generation}}")],
                ),
                Panel(
                    "Garbage that cannot be freed",
                    "Objects that the garbage collector could not free since the start: a fault in a library.",
                    "short",
                    [Query(gauge("sum", "python_gc_objects_uncollectable_total", "instance"), "{{instance}}")],
                    limits=(1, 1000),
                ),
                Panel(
                    "Runs for",
                    "Since the process was started.",
                    "s",
                    [Query(f"time() - {gauge('max', 'process_start_time_seconds', 'instance')}", "{{instance}}")],
                    kind="stat",
                    width=12,
                    height=6,
                ),
                Panel(
                    "Versions",
                    "Servers by the version of taskctl and of Python.",
                    "short",
                    [Query(gauge("count", "taskctl_build_info", "version, python"), "taskctl {{version}} on Python {{python}}")],
                    kind="stat",
                    width=12,
                    height=6,
                    decimals=0,
                ),
            ),
        ),
    ),
)
