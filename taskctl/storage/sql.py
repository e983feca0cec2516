"""`SqlTasks`: the service over a database. Every question is put into SQL here, once for all kinds of database."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self, TypeAlias, cast
from zoneinfo import ZoneInfo

from taskctl.errors import CursorExpired, InvalidRequest, TaskctlError
from taskctl.fields import STATUSES
from taskctl.filters import micros, zone_of
from taskctl.storage import where
from taskctl.storage.driver import Connection, Driver
from taskctl.storage.ledger import Outcome, Pending, commit, no_task
from taskctl.storage.rows import LOG, TASK, change_of, instant, task_of
from taskctl.tasks import (
    Change,
    Changes,
    Changeset,
    ChangesSince,
    Day,
    GetStats,
    GetTask,
    History,
    Labels,
    Overdue,
    Page,
    Projects,
    Query,
    Ref,
    Source,
    Stats,
    Status,
    T,
    Tallies,
    Tally,
    Task,
    TaskQuery,
    TaskService,
    Written,
)
from taskctl.wire import decode_cursor, encode_cursor

_TASK = ", ".join(TASK)
_LOG = ", ".join(LOG)
_INTEGER_MAX = 2**63 - 1
STATS_DAYS = 30

Submit: TypeAlias = Callable[[str, Pending], Awaitable[Outcome]]


class SqlTasks(TaskService):
    """The tasks of a workspace in a database.

    submit: how a changeset gets written: through the committer, or at once where nobody else waits.
    """

    def __init__(
        self, driver: Driver, submit: Submit, *, workspace: str, actor: str | None = None, source: Source = "library"
    ) -> None:
        self._driver = driver
        self._submit = submit
        self._workspace = workspace
        self._actor = actor
        self._source = source

    def scoped(self, *, actor: str | None, source: Source) -> Self:
        return type(self)(self._driver, self._submit, workspace=self._workspace, actor=actor, source=source)

    async def ready(self) -> None:
        await self._driver.read(self._head)

    async def write(self, changes: Changeset) -> Written:
        outcome = await self._submit(self._workspace, Pending(changes, self._actor, self._source))
        if isinstance(outcome, TaskctlError):
            raise outcome
        return outcome

    async def read(self, query: Query[T]) -> T:
        async def work(connection: Connection) -> T:
            workspace, seq, now = await self._head(connection)
            return cast(T, await _Reader(connection, workspace, seq, instant(now)).answer(query))

        return await self._driver.read(work)

    async def _head(self, connection: Connection) -> tuple[int, int, int]:
        """Return the workspace's number, the head of its log, and the time."""
        rows = await connection.fetch(connection.dialect.head, [self._workspace])
        if not rows:
            raise InvalidRequest(f"there is no workspace {self._workspace!r}")
        return cast(tuple[int, int, int], rows[0])


def commit_with(driver: Driver) -> Callable[[str, Sequence[Pending]], Awaitable[list[Outcome]]]:
    """Return the function that writes a batch of changesets in one transaction of the driver."""

    async def write(workspace: str, batch: Sequence[Pending]) -> list[Outcome]:
        return await driver.write(lambda connection: commit(connection, workspace, batch))

    return write


class _Reader:
    """The answers to questions about one workspace, all from one snapshot."""

    def __init__(self, connection: Connection, workspace: int, seq: int, now: datetime) -> None:
        self.connection = connection
        self.workspace = workspace
        self.seq = seq
        self.now = now

    async def fetch(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await self.connection.fetch(sql, [self.workspace, *params])

    async def answer(self, query: Query[Any]) -> object:
        match query:
            case GetTask(ref):
                return await self.task(ref)
            case TaskQuery():
                return await self.tasks(query)
            case History():
                return await self.history(query)
            case ChangesSince():
                return await self.changes(query)
            case Projects():
                sql = "SELECT project, status, count(*) FROM tasks WHERE workspace_id = ? AND project IS NOT NULL GROUP BY 1, 2"
                return self.tallies(await self.fetch(sql))
            case Labels():
                sql = (
                    "SELECT l.label, t.status, count(*) FROM task_labels l "
                    "JOIN tasks t ON t.workspace_id = l.workspace_id AND t.id = l.task_id "
                    "WHERE l.workspace_id = ? GROUP BY 1, 2"
                )
                return self.tallies(await self.fetch(sql))
            case GetStats(zone):
                return await self.stats(zone_of(zone))
            case _:
                raise TypeError(f"no such question: {query!r}")

    async def task(self, ref: Ref) -> Task:
        if isinstance(ref, int):
            rows = await self.fetch(f"SELECT {_TASK} FROM tasks WHERE workspace_id = ? AND id = ?", _bounded(ref))
        else:
            rows = await self.fetch(f"SELECT {_TASK} FROM tasks WHERE workspace_id = ? AND uid = ?", str(ref))
        if not rows:
            raise no_task(ref)
        return task_of(rows[0])

    async def tasks(self, query: TaskQuery) -> Page[Task]:
        same = ["tasks", query.where, query.sort, query.zone]
        keys = where.order(query.sort, TASK)
        conditions, params = ["workspace_id = ?"], []
        now, place = micros(self.now), None
        if query.cursor is not None:
            # A later page is judged at the moment of the first one: what is overdue stays so.
            now, place = decode_cursor(same, query.cursor, tuple[int, list[int | str]])
            if [type(v) for v in place] != [str if k.sql == "title" else int for k in keys]:
                raise InvalidRequest("the cursor does not belong to this query; start again without it")
        context = where.Context(self.connection.dialect, self.workspace, zone_of(query.zone), instant(now))
        for sql, more in (
            *([where.condition(query.where, context)] if query.where is not None else []),
            *([where.after(keys, place)] if place is not None else []),
        ):
            conditions.append(f"({sql})")
            params += more
        sql = f"SELECT {_TASK} FROM tasks WHERE {' AND '.join(conditions)} ORDER BY {where.order_by(keys)}"
        if query.limit is None:
            rows = await self.fetch(sql, *params)
        else:
            rows = await self.fetch(f"{sql} LIMIT ?", *params, _bounded(query.limit + 1))
        more_follow = query.limit is not None and len(rows) > query.limit
        items = tuple(map(task_of, rows[: query.limit]))
        if not more_follow:
            return Page(items)
        return Page(items, encode_cursor(same, [now, where.place(keys, rows[len(items) - 1])]))

    async def history(self, query: History) -> Page[Change]:
        same = ["history", query.id]
        id = query.id if isinstance(query.id, int) else await self.id_of(query)
        before = _INTEGER_MAX if query.cursor is None else decode_cursor(same, query.cursor, int)
        sql = f"SELECT {_LOG} FROM log WHERE workspace_id = ? AND entity_id = ? AND seq < ? ORDER BY seq DESC"
        if query.limit is None:
            rows = await self.fetch(sql, _bounded(id), before)
        else:
            rows = await self.fetch(f"{sql} LIMIT ?", _bounded(id), before, _bounded(query.limit + 1))
        if not rows and query.cursor is None:
            raise no_task(query.id)
        items = tuple(map(change_of, rows[: query.limit]))
        return Page(items, encode_cursor(same, items[-1].seq) if len(rows) > len(items) else None)

    async def id_of(self, query: History) -> int:
        """Return the id of the task with this uid, the last one that had it if it is removed."""
        uid = str(query.id)
        for sql in (
            "SELECT id FROM tasks WHERE workspace_id = ? AND uid = ?",
            "SELECT entity_id FROM log WHERE workspace_id = ? AND entity_uid = ? AND op = 'remove' ORDER BY +seq DESC LIMIT 1",
        ):
            for row in await self.fetch(sql, uid):
                return cast(int, row[0])
        raise no_task(query.id)

    async def changes(self, query: ChangesSince) -> Changes:
        [(epoch,)] = await self.connection.fetch("SELECT epoch FROM meta")
        if (query.epoch is not None and query.epoch != epoch) or query.since > self.seq:
            raise CursorExpired(f"this log has no entry {query.since} of that epoch; read it anew from 0", epoch=epoch)
        sql = f"SELECT {_LOG} FROM log WHERE workspace_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        items = tuple(map(change_of, await self.fetch(sql, query.since, query.limit)))
        last = items[-1].seq if items else query.since
        return Changes(items, last, last < self.seq, epoch)

    def tallies(self, rows: Sequence[tuple[str, int, int]]) -> Tallies:
        found: dict[str, dict[Status, int]] = {}
        for name, status, count in rows:
            found.setdefault(name, _no_counts())[STATUSES[status]] = count
        return Tallies(tuple(Tally(name, found[name]) for name in sorted(found)))

    async def stats(self, zone: ZoneInfo) -> Stats:
        counts = _no_counts()
        for status, count in await self.fetch("SELECT status, count(*) FROM tasks WHERE workspace_id = ? GROUP BY 1"):
            counts[STATUSES[status]] = count
        context = where.Context(self.connection.dialect, self.workspace, zone, self.now)
        sql, params = where.condition(Overdue(), context)
        [(overdue,)] = await self.fetch(f"SELECT count(*) FROM tasks WHERE workspace_id = ? AND {sql}", *params)
        return Stats(counts, overdue, await self.done_per_day(zone))

    async def done_per_day(self, zone: ZoneInfo) -> tuple[Day, ...]:
        today = self.now.astimezone(zone).date()
        days = [today - timedelta(days=ago) for ago in reversed(range(STATS_DAYS))]
        starts = [micros(datetime(day.year, day.month, day.day, tzinfo=zone)) for day in [*days, today + timedelta(days=1)]]
        bounds = [bound for n in range(STATS_DAYS) for bound in (n, starts[n], starts[n + 1])]
        sql = (
            f"WITH days (n, start, stop) AS (VALUES {', '.join(['(?, ?, ?)'] * STATS_DAYS)}) "
            "SELECT n, count(*) FROM days JOIN tasks ON completed_at >= start AND completed_at < stop "
            "WHERE workspace_id = ? GROUP BY 1"
        )
        found: dict[int, int] = dict(await self.connection.fetch(sql, [*bounds, self.workspace]))
        return tuple(Day(day, found.get(n, 0)) for n, day in enumerate(days))


def _bounded(number: int) -> int:
    """Return a number that fits a column; no task has one beyond."""
    return max(0, min(number, _INTEGER_MAX))


def _no_counts() -> dict[Status, int]:
    return dict.fromkeys(STATUSES, 0)
