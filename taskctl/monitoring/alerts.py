"""What people are told of, beside the goals: one alert for each thing that can go wrong, and that somebody can mend."""

from collections.abc import Mapping, Sequence
from typing import Final

from taskctl.monitoring.goals import burns, goals, routes
from taskctl.monitoring.rules import Alert, Group, Record

TASKCTL: Final = (
    Alert(
        "TaskctlAbsent",
        'absent(up{job="taskctl"} == 1)',
        "1m",
        "critical",
        "No taskctl answers",
        "Prometheus reaches no server of the job taskctl, or does not even know one.",
    ),
    Alert(
        "TaskctlTargetDown",
        'up{job="taskctl"} == 0',
        "2m",
        "warning",
        "{{ $labels.instance }} does not answer",
        "Prometheus has got no metrics of {{ $labels.instance }} for two minutes.",
    ),
    Alert(
        "TaskctlReplicaVanished",
        # After a restart Prometheus counts who has gone meanwhile for the 5 minutes that it looks back: what did not last longer is none.
        "taskctl:replicas_up:count < max_over_time(min_over_time(taskctl:replicas_up:count[6m])[30m:1m])",
        "5m",
        "warning",
        "There are fewer servers than half an hour ago",
        "{{ $value }} servers answer. One that vanished from its name's addresses leaves nothing behind that would be down.",
    ),
    Alert(
        "TaskctlRestarting",
        'changes(process_start_time_seconds{job="taskctl"}[15m]) > 2\n'
        # A container may come back with another address, and so as another instance. One that started before was there before.
        'or count by (job) (last_over_time(process_start_time_seconds{job="taskctl"}[15m]) > time() - 900)\n'
        "> on () group_left () (3 * clamp_min(taskctl:replicas_up:count, 1))",
        "1m",
        "warning",
        "A server starts again and again",
        "Within 15 minutes there were {{ $value }} starts{{ if $labels.instance }} of {{ $labels.instance }}{{ else }}, at an address of its own each{{ end }}.",
    ),
    Alert(
        "TaskctlVersionsDiffer",
        'count(count by (version) (taskctl_build_info{job="taskctl"})) > 1',
        "1h",
        "warning",
        "Servers of several versions run",
        "{{ $value }} versions have been running side by side for an hour: an upgrade has stopped half way.",
    ),
    Alert(
        "TaskctlDatabaseAway",
        'min by (job) (taskctl_database_up{job="taskctl"}) == 0',
        "1m",
        "critical",
        "A server cannot reach its database",
        "Whatever is not remembered is answered with 503 there.",
    ),
    Alert(
        "TaskctlStorageFull",
        'sum by (job) (increase(taskctl_requests_failed_total{job="taskctl",http_response_status_code="507"}[10m])) > 0',
        "1m",
        "critical",
        "The database has no space left",
        "{{ $value | humanize }} writes were refused within 10 minutes, because there is no space for them.",
    ),
    Alert(
        "TaskctlFeedLag",
        'max by (job, instance) (taskctl_feed_lag_seconds{job="taskctl"}) > 2',
        "2m",
        "warning",
        "{{ $labels.instance }} is behind the logs",
        "It looked {{ $value | humanizeDuration }} ago at what others have changed. Its cache is not used meanwhile: all goes to the database.",
    ),
    Alert(
        "TaskctlFeedLeaseLost",
        'min by (job, instance) (avg_over_time(taskctl_feed_lease_held{job="taskctl"}[5m])) < 0.5',
        "5m",
        "warning",
        "{{ $labels.instance }} may often not use its cache",
        "In the last five minutes it might do so {{ $value | humanizePercentage }} of the time.",
    ),
    Alert(
        "TaskctlFeedFailing",
        # Of those that there are: one that hangs takes as long as `database_timeout` lets it, so few fail in any time.
        'sum by (job, instance) (rate(taskctl_feed_failures_total{job="taskctl"}[5m]))\n'
        '/ sum by (job, instance) (rate(taskctl_feed_poll_duration_seconds_count{job="taskctl"}[5m])) > 0.5',
        "5m",
        "warning",
        "{{ $labels.instance }} cannot read the logs",
        "{{ $value | humanizePercentage }} of its looks fail.",
    ),
    Alert(
        "TaskctlFeedBehind",
        'min by (job, instance) (min_over_time(taskctl_feed_behind_entries{job="taskctl"}[5m])) > 0',
        "5m",
        "warning",
        "{{ $labels.instance }} reads the logs more slowly than they grow",
        "At least {{ $value }} entries have been left to be read for five minutes.",
    ),
    Alert(
        "TaskctlCommitterSaturated",
        'max by (job, instance) (min_over_time(taskctl_commit_waiting_operations{job="taskctl"}[2m])) > 1000',
        "2m",
        "critical",
        "Writes queue up at {{ $labels.instance }}",
        "At least {{ $value }} operations have been waiting for two minutes. At 10,000 further ones are refused (503).",
    ),
    Alert(
        "TaskctlCommitsSlow",
        "histogram_quantile(0.99, sum by (job, instance, le) "
        '(rate(taskctl_commit_duration_seconds_bucket{job="taskctl"}[5m]))) > 0.5\n'
        # Of a few, the slowest one would be one in a hundred.
        'and sum by (job, instance) (rate(taskctl_commit_duration_seconds_count{job="taskctl"}[5m])) > 0.5',
        "10m",
        "warning",
        "Transactions of {{ $labels.instance }} take long",
        "One in a hundred takes more than {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "TaskctlConnectionWaiters",
        'max by (job, instance, pool) (min_over_time(taskctl_database_connection_waiters{job="taskctl"}[2m])) > 0',
        "5m",
        "warning",
        "There are too few connections to {{ $labels.pool }} at {{ $labels.instance }}",
        "All the time at least {{ $value }} requests wait for one.",
    ),
    Alert(
        "TaskctlRateLimiting",
        'sum by (job, limit) (rate(taskctl_rate_limited_total{job="taskctl"}[5m])) > 1',
        "5m",
        "warning",
        "Many requests are refused by the limit of the {{ $labels.limit }}",
        "{{ $value | humanize }} a second.",
    ),
    Alert(
        "TaskctlTokensRefused",
        'sum by (job, reason) (rate(taskctl_tokens_refused_total{job="taskctl"}[5m])) > 0.5',
        "5m",
        "warning",
        "Somebody shows many tokens that are {{ $labels.reason }}",
        "{{ $value | humanize }} a second.",
    ),
    Alert(
        "TaskctlEventLoopLag",
        "histogram_quantile(0.99, sum by (job, instance, le) "
        '(rate(taskctl_event_loop_lag_seconds_bucket{job="taskctl"}[5m]))) > 0.1',
        "5m",
        "warning",
        "{{ $labels.instance }} has too much to do",
        "One request in a hundred waits {{ $value | humanizeDuration }} for its turn, before anything is done for it.",
    ),
    Alert(
        "TaskctlMemory",
        'process_resident_memory_bytes{job="taskctl"} > 450e6',
        "10m",
        "warning",
        "{{ $labels.instance }} takes much memory",
        "{{ $value | humanize1024 }}B; the compose file ends it at 512 MiB.",
    ),
    Alert(
        "TaskctlFileDescriptors",
        'process_open_fds{job="taskctl"} / process_max_fds{job="taskctl"} > 0.8',
        "5m",
        "warning",
        "{{ $labels.instance }} is running out of file descriptors",
        "{{ $value | humanizePercentage }} of them are open. Without one no connection can be taken.",
    ),
    Alert(
        "TaskctlRedisBreakerOpen",
        'max by (job, instance) (taskctl_redis_breaker_open{job="taskctl"}) == 1',
        "2m",
        "warning",
        "{{ $labels.instance }} leaves Redis alone",
        "Redis failed several times in a row. Nothing is wrong with what is answered; it costs the database more.",
    ),
    Alert(
        "TaskctlRedisFailing",
        'sum by (job, instance) (rate(taskctl_redis_failures_total{job="taskctl"}[5m]))\n'
        '/ sum by (job, instance) (rate(taskctl_redis_round_trip_duration_seconds_count{job="taskctl"}[5m])) > 0.05',
        "10m",
        "warning",
        "Redis often fails for {{ $labels.instance }}",
        "{{ $value | humanizePercentage }} of the round trips do.",
    ),
    Alert(
        "TaskctlCountsStale",
        'min by (job) (taskctl_tasks_age_seconds{job="taskctl"}) > 600',
        "5m",
        "warning",
        "The tasks have not been counted for long",
        "What is shown of them is {{ $value | humanizeDuration }} old.",
    ),
)

PROXY: Final = (
    Alert(
        "ProxyDown",
        'up{job="proxy"} == 0\nor absent(up{job="proxy"})',
        "1m",
        "critical",
        "The proxy does not answer",
        "Prometheus has got nothing from {{ if $labels.instance }}{{ $labels.instance }}{{ else }}any target of the job proxy{{ end }} for a minute. "
        "Who comes through it gets nothing either.",
    ),
    Alert(
        "ProxyWithoutServers",
        'max by (job, instance, proxy) (haproxy_backend_active_servers{job="proxy",proxy="ready"}) == 0',
        "1m",
        "critical",
        "The proxy finds no server that is ready",
        "None has been ready for a minute. It asks those that live, if there are any, and answers 503 by itself if not.",
    ),
    Alert(
        "ProxyFailing",
        # Few requests are no part of the budgets of the goals, and many are told of by these sooner: this one says where they fail.
        "60 * taskctl:requests_failed_at_proxy:rate5m > 1",
        # Longer than what happened once stays in the rate.
        "10m",
        "warning",
        "The proxy answers requests with 5xx by itself",
        "{{ $value | humanize }} a minute: it finds no server, or gets no answer from one. No server counts them; the goals do.",
    ),
    Alert(
        "ProxyConnections",
        'haproxy_process_current_connections{job="proxy"} / haproxy_process_max_connections{job="proxy"} > 0.8',
        "5m",
        "warning",
        "The proxy is running out of connections",
        "{{ $value | humanizePercentage }} of maxconn are open. Beyond that, whoever comes waits.",
    ),
)

POSTGRESQL: Final = (
    Alert(
        "PostgresDown",
        "pg_up == 0",
        "1m",
        "critical",
        "PostgreSQL does not answer its exporter",
        "The exporter {{ $labels.instance }} runs, and cannot log in.",
    ),
    Alert(
        "PostgresExporterDown",
        'absent(up{job="postgres"} == 1)',
        "5m",
        "warning",
        "PostgreSQL is not watched",
        "Prometheus gets nothing from an exporter of the job postgres.",
    ),
    Alert(
        "PostgresConnections",
        "sum by (job, instance) (pg_stat_activity_count) / on (job, instance)\n"
        "max by (job, instance) (pg_settings_max_connections) > 0.85",
        "5m",
        "warning",
        "PostgreSQL is running out of connections",
        "{{ $value | humanizePercentage }} of max_connections are taken.",
    ),
    Alert(
        "PostgresLongTransaction",
        'max by (job, instance, datname, state) (pg_stat_activity_max_tx_duration{state=~"active|idle in transaction.*"}) > 300',
        "2m",
        "warning",
        "A transaction in {{ $labels.datname }} has been open for long",
        "For {{ $value | humanizeDuration }}, and is {{ $labels.state }}. Nothing that was deleted or changed since can be cleaned up.",
    ),
    Alert(
        "PostgresDeadlocks",
        "sum by (job, instance, datname) (increase(pg_stat_database_deadlocks[10m])) > 0",
        "1m",
        "warning",
        "There are deadlocks in {{ $labels.datname }}",
        "taskctl makes none: it takes all locks in one order. Somebody else writes to its tables.",
    ),
    Alert(
        "PostgresRollbacks",
        "sum by (job, instance, datname) (rate(pg_stat_database_xact_rollback[5m]))\n"
        "/ (sum by (job, instance, datname) (rate(pg_stat_database_xact_commit[5m])) > 1) > 0.2",
        "10m",
        "warning",
        "Many transactions in {{ $labels.datname }} are rolled back",
        "{{ $value | humanizePercentage }} of as many as are committed.",
    ),
    Alert(
        "PostgresDeadRows",
        "sum by (job, instance, relname) (pg_stat_user_tables_n_dead_tup) > 100000\nand\n"
        "sum by (job, instance, relname) (pg_stat_user_tables_n_dead_tup)\n"
        "> 0.5 * sum by (job, instance, relname) (pg_stat_user_tables_n_live_tup)",
        "1h",
        "warning",
        "The table {{ $labels.relname }} is not cleaned up",
        "{{ $value | humanize }} dead rows are in it, more than half as many as living ones.",
    ),
    Alert(
        "PostgresWalHeld",
        "max by (job, instance, slot_name) (pg_replication_slots_pg_wal_lsn_diff) > 5e9",
        "10m",
        "warning",
        "The replication slot {{ $labels.slot_name }} keeps much of the log",
        "{{ $value | humanize1024 }}B of WAL cannot be removed; it will fill the disk.",
    ),
    Alert(
        "PostgresWalSize",
        "max by (job, instance) (pg_wal_size_bytes) > 5e9",
        "10m",
        "warning",
        "There is much WAL on PostgreSQL's disk",
        "{{ $value | humanize1024 }}B. max_wal_size is 1 GB unless it was changed.",
    ),
    Alert(
        "PostgresArchiverFailing",
        "increase(pg_stat_archiver_failed_count[15m]) > 0",
        "15m",
        "warning",
        "The WAL cannot be archived",
        "It failed {{ $value | humanize }} times within 15 minutes. What is not archived stays on the disk.",
    ),
    Alert(
        "PostgresGrowing",
        "sum by (job, instance) (pg_database_size_bytes) > 1.5 * sum by (job, instance) (pg_database_size_bytes offset 1d)\n"
        "and sum by (job, instance) (pg_database_size_bytes) > 5e9",
        "1h",
        "warning",
        "PostgreSQL has grown by half within a day",
        "It takes {{ $value | humanize1024 }}B. Look how much the disk has left.",
    ),
)

REDIS: Final = (
    Alert(
        "RedisDown",
        "redis_up == 0",
        "2m",
        "warning",
        "Redis does not answer its exporter",
        "taskctl goes on without it. It costs the database more.",
    ),
    Alert(
        "RedisExporterDown",
        'absent(up{job="redis"} == 1)',
        "5m",
        "warning",
        "Redis is not watched",
        "Prometheus gets nothing from an exporter of the job redis.",
    ),
    Alert(
        "RedisEvicting",
        "sum by (job, instance) (rate(redis_evicted_keys_total[10m])) > 20",
        "30m",
        "warning",
        "Redis has too little memory",
        "It throws {{ $value | humanize }} answers a second away to make room for others.",
    ),
    Alert(
        "RedisMemory",
        "redis_memory_used_bytes / (redis_memory_max_bytes > 0) > 1.05",
        "10m",
        "warning",
        "Redis takes more memory than it may",
        "{{ $value | humanizePercentage }} of maxmemory: it cannot free what it should.",
    ),
    Alert(
        "RedisRejecting",
        "increase(redis_rejected_connections_total[10m]) > 0",
        "1m",
        "warning",
        "Redis refuses connections",
        "{{ $value | humanize }} within 10 minutes: maxclients is reached.",
    ),
)

PROMETHEUS: Final = (
    Alert(
        "PrometheusRulesFailing",
        "sum by (job, instance, rule_group) (increase(prometheus_rule_evaluation_failures_total[10m])) > 0",
        "5m",
        "warning",
        "Rules of {{ $labels.rule_group }} fail",
        "Alerts that depend on them cannot fire.",
    ),
    Alert(
        "PrometheusConfigurationRefused",
        "prometheus_config_last_reload_successful == 0",
        "5m",
        "warning",
        "Prometheus goes on with an old configuration",
        "The last one that it was given has a mistake.",
    ),
)

FILES: Final[Mapping[str, Sequence[Group]]] = {
    "goals.yml": (Group("taskctl-goals", (*goals(), *burns())),),
    "taskctl.yml": (
        Group("taskctl-routes", tuple(routes())),
        Group("taskctl", (Record("taskctl:replicas_up:count", 'count(up{job="taskctl"} == 1) or vector(0)'), *TASKCTL)),
    ),
    "proxy.yml": (Group("proxy", PROXY),),
    "postgresql.yml": (Group("postgresql", POSTGRESQL),),
    "redis.yml": (Group("redis", REDIS),),
    "prometheus.yml": (Group("prometheus", PROMETHEUS),),
}
