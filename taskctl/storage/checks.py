"""A look at a database: is it of this version, whole, and is its log what it promises to be."""

import sqlite3
import time
from contextlib import closing

from taskctl.errors import TaskctlError, Unavailable
from taskctl.storage.migrations import HEAD, outdated
from taskctl.storage.sqlite import File


def revision_of(file: File) -> str | None:
    """Return the revision of the file's tables, None if there are none; nothing is created."""
    with file.errors():
        file.look()
        if not file.path.exists():
            return None
        with closing(file.raw(mode="rw")) as raw:
            return file.revision(raw)


_LOG_CHECKS = {
    "log": (
        "SELECT name, seq, (SELECT count(*) FROM log WHERE workspace_id = w.id), "
        "(SELECT max(seq) FROM log WHERE workspace_id = w.id) FROM workspaces w"
    ),
    "tasks": (
        "SELECT count(*) FROM tasks t WHERE version IS NOT (SELECT max(version) FROM log l "
        "WHERE l.workspace_id = t.workspace_id AND l.entity_id = t.id)"
    ),
}


def check_sqlite(file: File) -> dict[str, str]:
    """Return what was found under each heading; "ok" where nothing is wrong. Raises Unavailable if it cannot be read."""
    if not file.path.exists():
        raise Unavailable(f"there is no database {file.path} yet")
    with file.errors(), closing(file.raw(mode="rw")) as raw:
        revision = file.revision(raw)
        found: dict[str, str] = {"schema": "ok"}
        if revision != HEAD:
            failure: TaskctlError = outdated(revision)
            return {"schema": failure.detail}
        problems = [row[0] for row in raw.execute("PRAGMA integrity_check")]
        found["file"] = "; ".join(problems)
        gaps = [name for name, seq, count, last in raw.execute(_LOG_CHECKS["log"]) if not seq == count == (last or 0)]
        found["log"] = f"numbers are missing in {', '.join(gaps)}" if gaps else "ok"
        [(astray,)] = raw.execute(_LOG_CHECKS["tasks"])
        found["tasks"] = f"{astray} are not as the log says" if astray else "ok"
        file.begin(raw, time.monotonic() + file.timeout)  # FTS5's check is said as a write
        try:
            raw.execute("INSERT INTO tasks_search (tasks_search) VALUES ('integrity-check')")
            found["search"] = "ok"
        except sqlite3.DatabaseError as e:
            found["search"] = str(e)
    return found
