"""A look at a database: is it of this version, whole, and is its log what it promises to be."""

import sqlite3
import time
from contextlib import closing

from taskctl.errors import Unavailable
from taskctl.storage.driver import Connection, Driver
from taskctl.storage.migrations import HEAD, outdated
from taskctl.storage.sqlite import File, InlineSqlite, drive


def revision_of(file: File) -> str | None:
    """Return the revision of the file's tables, None if there are none; nothing is created."""
    with file.errors():
        file.look()
        if not file.path.exists():
            return None
        with closing(file.raw(mode="rw")) as raw:
            return file.revision(raw)


_CHECKS = {
    "log": (
        "SELECT name FROM workspaces WHERE seq <> (SELECT count(*) FROM log WHERE workspace_id = workspaces.id) "
        "OR seq <> (SELECT COALESCE(max(seq), 0) FROM log WHERE workspace_id = workspaces.id) ORDER BY name"
    ),
    "tasks": (
        "SELECT count(*) FROM tasks WHERE version IS DISTINCT FROM (SELECT max(version) FROM log "
        "WHERE log.workspace_id = tasks.workspace_id AND log.entity_id = tasks.id)"
    ),
    "labels": (
        "SELECT count(*) FROM task_labels WHERE NOT EXISTS (SELECT 1 FROM tasks "
        "WHERE tasks.workspace_id = task_labels.workspace_id AND tasks.id = task_labels.task_id)"
    ),
}


async def _check(connection: Connection) -> dict[str, str]:
    gaps = [name for (name,) in await connection.fetch(_CHECKS["log"])]
    found = {"log": f"numbers are missing in {', '.join(gaps)}" if gaps else "ok"}
    for heading, trouble in (("tasks", "are not as the log says"), ("labels", "are those of no task")):
        [(count,)] = await connection.fetch(_CHECKS[heading])
        found[heading] = f"{count} {trouble}" if count else "ok"
    return found


async def check_postgres(driver: Driver, revision: str | None) -> dict[str, str]:
    """Return what was found under each heading; "ok" where nothing is wrong. Raises Unavailable if it cannot be read."""
    if revision != HEAD:
        return {"schema": outdated(revision).detail}
    return {"schema": "ok", **await driver.read(_check)}


def check_sqlite(file: File) -> dict[str, str]:
    """Do the same to a file, and have SQLite look at the file itself."""
    if not file.path.exists():
        raise Unavailable(f"there is no database {file.path} yet")
    with file.errors(), closing(file.raw(mode="rw")) as raw:
        revision = file.revision(raw)
        if revision != HEAD:
            return {"schema": outdated(revision).detail}
        found: dict[str, str] = {"schema": "ok"}
        found["file"] = "; ".join(row[0] for row in raw.execute("PRAGMA integrity_check"))
        inline = InlineSqlite(file)
        try:
            found |= drive(inline.read(_check))
        finally:
            drive(inline.close())
        file.begin(raw, time.monotonic() + file.timeout)  # FTS5's check is said as a write
        try:
            raw.execute("INSERT INTO tasks_search (tasks_search) VALUES ('integrity-check')")
            found["search"] = "ok"
        except sqlite3.DatabaseError as e:
            found["search"] = str(e)
    return found
