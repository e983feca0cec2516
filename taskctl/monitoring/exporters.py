"""The dashboards of what taskctl needs, as their exporters tell it.

The names are those of postgres_exporter 0.20 and of redis_exporter 1.88. Older ones have most of them; where one had another name, a
query says `or`, and what postgres_exporter 0.11 lacks is in contrib/prometheus/postgres-exporter-0.11.yml.
"""

from typing import Final

from taskctl.monitoring.grafana import Dashboard, Panel, Query, Row

_HERE: Final = 'instance=~"$instance"'
_RATE: Final = "[$__rate_interval]"


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_HERE}{more}}}{_RATE}))"


def _gauge(how: str, metric: str, by: str, more: str = "") -> str:
    return f"{how} by ({by}) ({metric}{{{_HERE}{more}}})"


_CHECKPOINTS: Final = (
    (
        "timed",
        (
            "pg_stat_checkpointer_num_timed_total",
            "pg_stat_bgwriter_checkpoints_timed_total",
            "pg_stat_bgwriter_checkpoints_timed",
        ),
    ),
    (
        "asked for",
        (
            "pg_stat_checkpointer_num_requested_total",
            "pg_stat_bgwriter_checkpoints_req_total",
            "pg_stat_bgwriter_checkpoints_req",
        ),
    ),
)
_STATEMENTS: Final = "datname, queryid"

_POSTGRESQL: Final = Dashboard(
    "postgresql",
    "taskctl: PostgreSQL",
    "The database that the tasks are in.",
    "pg_up",
    (
        Row(
            "Now",
            (
                Panel(
                    "Reached",
                    "Whether the exporter can log in.",
                    "short",
                    [Query(_gauge("min", "pg_up", "instance"), "{{instance}}")],
                    kind="stat",
                    limits=(1, 0.5),
                    width=4,
                    height=5,
                    words=((0, "away"), (1, "reached")),
                ),
                Panel(
                    "Connections",
                    "The part of max_connections that is taken.",
                    "percentunit",
                    [
                        Query(
                            f"{_gauge('sum', 'pg_stat_activity_count', 'instance')}\n/ {_gauge('max', 'pg_settings_max_connections', 'instance')}",
                            "{{instance}}",
                        )
                    ],
                    kind="stat",
                    limits=(0.7, 0.85),
                    width=4,
                    height=5,
                ),
                Panel(
                    "Size",
                    "All databases of the server.",
                    "bytes",
                    [Query(_gauge("sum", "pg_database_size_bytes", "instance"), "{{instance}}")],
                    kind="stat",
                    width=4,
                    height=5,
                ),
                Panel(
                    "WAL on the disk",
                    "Should stay about max_wal_size (1 GB unless it was changed). If it grows, a replication slot or the archiving holds it.",
                    "bytes",
                    [Query(_gauge("max", "pg_wal_size_bytes", "instance"), "{{instance}}")],
                    nothing="not told",
                    kind="stat",
                    limits=(2e9, 5e9),
                    width=4,
                    height=5,
                ),
                Panel(
                    "Longest transaction",
                    "That is open now. What was deleted or changed since it began cannot be cleaned up.",
                    "s",
                    [Query(_gauge("max", "pg_stat_activity_max_tx_duration", "instance"), "{{instance}}")],
                    kind="stat",
                    limits=(60, 300),
                    width=4,
                    height=5,
                ),
                Panel(
                    "Found in memory",
                    "The part of the blocks that PostgreSQL did not have to ask the operating system for.",
                    "percentunit",
                    [
                        Query(
                            f"{_rate('pg_stat_database_blks_hit', 'instance')}\n"
                            f"/ ({_rate('pg_stat_database_blks_hit', 'instance')} + {_rate('pg_stat_database_blks_read', 'instance')} > 0)",
                            "{{instance}}",
                        )
                    ],
                    kind="stat",
                    limits=(0.95, 0.8),
                    high=1,
                    width=4,
                    height=5,
                ),
            ),
        ),
        Row(
            "What it does",
            (
                Panel(
                    "Transactions",
                    "A second; those that were rolled back by database.",
                    "ops",
                    [
                        Query(_rate("pg_stat_database_xact_commit", "datname", ',datname!~"template.*|"'), "{{datname}}"),
                        Query(
                            _rate("pg_stat_database_xact_rollback", "datname", ',datname!~"template.*|"'),
                            "{{datname}} rolled back",
                        ),
                    ],
                ),
                Panel(
                    "Rows",
                    "Rows a second that were fetched, added, changed and removed.",
                    "ops",
                    [
                        Query(_rate(f"pg_stat_database_tup_{each}", "instance"), each)
                        for each in ("fetched", "inserted", "updated", "deleted")
                    ],
                ),
                Panel(
                    "Connections by state",
                    "idle in transaction is somebody who holds what others may wait for.",
                    "short",
                    [Query(_gauge("sum", "pg_stat_activity_count", "state"), "{{state}}")],
                    stacked=True,
                    decimals=0,
                ),
                Panel(
                    "Blocks",
                    "Bytes a second that were found in memory, and that had to be read (a block is 8 KiB).",
                    "Bps",
                    [
                        Query(f"8192 * {_rate('pg_stat_database_blks_hit', 'instance')}", "found in memory"),
                        Query(f"8192 * {_rate('pg_stat_database_blks_read', 'instance')}", "read"),
                    ],
                ),
                Panel(
                    "Locks",
                    "Locks that are held or waited for, by their mode.",
                    "short",
                    [Query(_gauge("sum", "pg_locks_count", "mode"), "{{mode}}")],
                    stacked=True,
                    decimals=0,
                ),
                Panel(
                    "Deadlocks",
                    "A second. taskctl makes none.",
                    "ops",
                    [Query(_rate("pg_stat_database_deadlocks", "instance"), "{{instance}}")],
                    limits=(0.001, 0.1),
                    width=4,
                ),
                Panel(
                    "Temporary files",
                    "Bytes a second of sorting that did not fit into memory.",
                    "Bps",
                    [Query(_rate("pg_stat_database_temp_bytes", "instance"), "{{instance}}")],
                    width=4,
                ),
            ),
        ),
        Row(
            "Statements, by pg_stat_statements",
            (
                Panel(
                    "Time of statements",
                    "Seconds a second that the ten statements take that take most, by their queryid: SELECT query FROM pg_stat_statements WHERE queryid = …",
                    "short",
                    [Query(f"topk(10, {_rate('pg_stat_statements_seconds_total', _STATEMENTS)})", "{{datname}} {{queryid}}")],
                    nothing="no pg_stat_statements",
                    stacked=True,
                ),
                Panel(
                    "Calls",
                    "How often a second the ten statements run that run most.",
                    "ops",
                    [Query(f"topk(10, {_rate('pg_stat_statements_calls_total', _STATEMENTS)})", "{{datname}} {{queryid}}")],
                    nothing="no pg_stat_statements",
                ),
                Panel(
                    "Time of a call",
                    "On average, of the ten statements that take longest.",
                    "s",
                    [
                        Query(
                            f"topk(10, {_rate('pg_stat_statements_seconds_total', _STATEMENTS)}\n"
                            f"/ ({_rate('pg_stat_statements_calls_total', _STATEMENTS)} > 0))",
                            "{{datname}} {{queryid}}",
                        )
                    ],
                    nothing="no pg_stat_statements",
                    limits=(0.1, 1),
                ),
            ),
        ),
        Row(
            "Tables and disk",
            (
                Panel(
                    "Dead rows",
                    "Rows that were changed or removed and are not cleaned up yet.",
                    "short",
                    [Query(_gauge("sum", "pg_stat_user_tables_n_dead_tup", "relname"), "{{relname}}")],
                    nothing="no tables",
                    limits=(10_000, 100_000),
                ),
                Panel(
                    "Scans of whole tables",
                    "A second. Small tables are meant to be read so; tasks and log are not.",
                    "ops",
                    [Query(_rate("pg_stat_user_tables_seq_scan", "relname"), "{{relname}}")],
                    nothing="no tables",
                ),
                Panel(
                    "Scans by index",
                    "A second.",
                    "ops",
                    [Query(_rate("pg_stat_user_tables_idx_scan", "relname"), "{{relname}}")],
                    nothing="no tables",
                ),
                Panel(
                    "Databases",
                    "How much they take on the disk.",
                    "bytes",
                    [Query(_gauge("max", "pg_database_size_bytes", "datname"), "{{datname}}")],
                    stacked=True,
                ),
                Panel(
                    "Checkpoints",
                    "A second. Many that are asked for mean that max_wal_size is too small.",
                    "ops",
                    [
                        Query("\nor ".join(_rate(each, "instance") for each in names), f"{{{{instance}}}} {kind}")
                        for kind, names in _CHECKPOINTS
                    ],
                    nothing="not told",
                ),
                Panel(
                    "WAL that is held",
                    "By replication slots.",
                    "bytes",
                    [Query(_gauge("max", "pg_replication_slots_pg_wal_lsn_diff", "slot_name"), "{{slot_name}}")],
                    nothing="no slots",
                    limits=(1e9, 5e9),
                    width=4,
                ),
                Panel(
                    "Archiving",
                    "WAL files that could not be archived, within an hour.",
                    "short",
                    [Query(f"max by (instance) (increase(pg_stat_archiver_failed_count{{{_HERE}}}[1h]))", "{{instance}}")],
                    nothing="not told",
                    limits=(1, 10),
                    width=4,
                ),
            ),
        ),
    ),
)

_REDIS: Final = Dashboard(
    "redis",
    "taskctl: Redis",
    "The second level of the cache. Nothing that is in it would be missed; without it the database has more to do.",
    "redis_up",
    (
        Row(
            "Now",
            (
                Panel(
                    "Reached",
                    "Whether the exporter can log in.",
                    "short",
                    [Query(_gauge("min", "redis_up", "instance"), "{{instance}}")],
                    kind="stat",
                    limits=(1, 0.5),
                    width=4,
                    height=5,
                    words=((0, "away"), (1, "reached")),
                ),
                Panel(
                    "Runs for",
                    "Since Redis was started.",
                    "s",
                    [Query(_gauge("min", "redis_uptime_in_seconds", "instance"), "{{instance}}")],
                    kind="stat",
                    width=4,
                    height=5,
                ),
                Panel(
                    "Clients",
                    "Connections to it; each server of taskctl has one, and one to be woken by.",
                    "short",
                    [Query(_gauge("sum", "redis_connected_clients", "instance"), "{{instance}}")],
                    kind="stat",
                    limits=(1000, 8000),
                    width=4,
                    height=5,
                ),
                Panel(
                    "Found",
                    "The part of the keys asked for that were there.",
                    "percentunit",
                    [
                        Query(
                            f"{_rate('redis_keyspace_hits_total', 'instance')}\n"
                            f"/ ({_rate('redis_keyspace_hits_total', 'instance')} + {_rate('redis_keyspace_misses_total', 'instance')} > 0)",
                            "{{instance}}",
                        )
                    ],
                    nothing="nothing asked",
                    kind="stat",
                    high=1,
                    width=4,
                    height=5,
                ),
                Panel(
                    "Memory",
                    "What it takes.",
                    "bytes",
                    [Query(_gauge("max", "redis_memory_used_bytes", "instance"), "{{instance}}")],
                    kind="stat",
                    width=4,
                    height=5,
                ),
                Panel(
                    "Refused connections",
                    "Since it was started, because maxclients was reached.",
                    "short",
                    [Query(_gauge("max", "redis_rejected_connections_total", "instance"), "{{instance}}")],
                    kind="stat",
                    limits=(1, 100),
                    width=4,
                    height=5,
                ),
            ),
        ),
        Row(
            "What it does",
            (
                Panel(
                    "Commands",
                    "A second.",
                    "ops",
                    [Query(_rate("redis_commands_total", "cmd"), "{{cmd}}")],
                    stacked=True,
                ),
                Panel(
                    "Time of a command",
                    "On average, without the way.",
                    "s",
                    [
                        Query(
                            f"{_rate('redis_commands_duration_seconds_total', 'cmd')}\n/ ({_rate('redis_commands_total', 'cmd')} > 0)",
                            "{{cmd}}",
                        )
                    ],
                    limits=(0.001, 0.01),
                ),
                Panel(
                    "Found and not",
                    "Keys a second that were asked for.",
                    "ops",
                    [
                        Query(_rate("redis_keyspace_hits_total", "instance"), "found"),
                        Query(_rate("redis_keyspace_misses_total", "instance"), "not there"),
                    ],
                ),
                Panel(
                    "Memory",
                    "What it takes, and what it may (0: as much as there is).",
                    "bytes",
                    [
                        Query(_gauge("max", "redis_memory_used_bytes", "instance"), "{{instance}} taken"),
                        Query(_gauge("max", "redis_memory_max_bytes", "instance"), "{{instance}} maxmemory"),
                    ],
                ),
                Panel(
                    "Keys",
                    "Answers that are held, by the number of the database.",
                    "short",
                    [Query(_gauge("max", "redis_db_keys", "db") + " > 0", "{{db}}")],
                    nothing="it is empty",
                ),
                Panel(
                    "Thrown away",
                    "Keys a second that have had their time, and that had to make room for others.",
                    "ops",
                    [
                        Query(_rate("redis_expired_keys_total", "instance"), "had their time"),
                        Query(_rate("redis_evicted_keys_total", "instance"), "made room"),
                    ],
                    limits=(20, 200),
                ),
                Panel(
                    "Network",
                    "Bytes a second.",
                    "Bps",
                    [
                        Query(_rate("redis_net_input_bytes_total", "instance"), "in"),
                        Query(_rate("redis_net_output_bytes_total", "instance"), "out"),
                    ],
                ),
                Panel(
                    "Processor",
                    "Cores that are busy; commands run on one.",
                    "short",
                    [
                        Query(
                            f"{_rate('redis_cpu_user_seconds_total', 'instance')}\n+ {_rate('redis_cpu_sys_seconds_total', 'instance')}",
                            "{{instance}}",
                        )
                    ],
                    limits=(0.7, 0.9),
                ),
                Panel(
                    "Slow commands",
                    "How many there are in the log of slow ones (SLOWLOG GET).",
                    "short",
                    [Query(_gauge("max", "redis_slowlog_length", "instance"), "{{instance}}")],
                    nothing="not told",
                ),
            ),
        ),
    ),
)

EXPORTERS: Final = (_POSTGRESQL, _REDIS)
