"""`SqlTasks`: the service over a database. Every question is put into SQL here, once for all kinds of database."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec import UNSET

from taskctl.conditions import Condition, Overdue, Text
from taskctl.errors import CursorExpired, NotFound, TaskctlError
from taskctl.fields import STATUSES
from taskctl.filters import micros, place, zone_of
from taskctl.log import News, Recent, Step
from taskctl.observe import Statement
from taskctl.storage import where
from taskctl.storage.driver import Driver, Row, Sql
from taskctl.storage.ledger import Outcome, Pending
from taskctl.storage.rows import LOG, STEP, TASK, Stored, change_of, instant, task_of
from taskctl.tasks import (
    Change,
    Changes,
    Changeset,
    ChangesSince,
    Day,
    GetStats,
    GetTask,
    History,
    IdempotencyKey,
    Labels,
    Page,
    Projects,
    Query,
    Read,
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
    no_such_cursor,
    no_task,
    require_at,
)
from taskctl.wire import (
    decode_cursor,
    digest,
    encode_changeset,
    encode_cursor,
    encode_task_cursor,
    place_in_log,
    task_cursor,
)

_REMOVED = "op = 'remove'"
_TASK = ", ".join(TASK)
_LOG = ", ".join(LOG)
_INTEGER_MAX = 2**63 - 1
STATS_DAYS = 30
NEWS_MAX = 500
"""Entries of one log that are told at once."""

Submit: TypeAlias = Callable[[str, Pending], Awaitable[Outcome]]
Ask: TypeAlias = Callable[[str, Query[Any]], Awaitable[Read[Any]]]


class SqlTasks(TaskService):
    """The tasks of a workspace in a database.

    ask, submit: how a question is put and a changeset gets written: together with others that arrive at the same time, or
    at once where nobody else is there.
    """

    def __init__(self, ask: Ask, submit: Submit, *, workspace: str, actor: str | None = None, source: Source = "library") -> None:
        self._ask = ask
        self._submit = submit
        self._workspace = workspace
        self._actor = actor
        self._source = source

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        return type(self)(self._ask, self._submit, workspace=workspace or self._workspace, actor=actor, source=source)

    async def ready(self) -> None:
        await self._ask(self._workspace, ChangesSince(limit=1))

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        if changes.dry_run:
            key = None
        if key is not None and not key.request:
            key = IdempotencyKey(key.name, digest(encode_changeset(changes)), key.owner)
        outcome = await self._submit(self._workspace, Pending(changes, self._actor, self._source, key))
        if isinstance(outcome, TaskctlError):
            raise outcome
        return outcome

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        del fresh  # every answer is from the database, and as new as can be
        require_at(at)
        return cast("Read[T]", await self._ask(self._workspace, query))


class Questions:
    """The answers to questions, each from one statement and so from one snapshot."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def answer(self, workspace: str, query: Query[Any]) -> Read[Any]:
        """Answer a question about a workspace."""
        match query:
            case GetTask(ref):
                found = await self.tasks(workspace, [ref])
                if ref not in found.value:
                    raise no_task(ref, found.at)
                return Read(found.value[ref], found.at)
            case TaskQuery():
                return await self._list(workspace, query)
            case History():
                return await self._history(workspace, query)
            case ChangesSince():
                return await self._changes(workspace, query)
            case Projects():
                sql = f"SELECT project, status, count(*) FROM tasks WHERE {where.within('project IS NOT NULL')} GROUP BY 1, 2"
                answer = await self._fetch("projects", workspace, sql, [workspace])
                return Read(_tallies(answer.rows), answer.at)
            case Labels():
                sql = (
                    f"SELECT label, status, count(*) FROM (SELECT label, task_id FROM task_labels WHERE {where.within()}) AS l "
                    f"JOIN tasks ON {where.within('id = task_id')} GROUP BY 1, 2"
                )
                answer = await self._fetch("labels", workspace, sql, [workspace] * 2)
                return Read(_tallies(answer.rows), answer.at)
            case GetStats(zone):
                return await self._stats(workspace, zone_of(zone))
            case _:
                raise TypeError(f"no such question: {query!r}")

    async def tasks(self, workspace: str, refs: Sequence[Ref]) -> Read[dict[Ref, Task]]:
        """Return those of the tasks that there are, by what they were asked by."""
        found: dict[Ref, Task] = {}
        at = ""
        for column, values in (
            ("id", [_bounded(ref) for ref in refs if isinstance(ref, int)]),
            ("uid", [str(ref) for ref in refs if isinstance(ref, UUID)]),
        ):
            if values:
                among, params = self._driver.dialect.among(column, values)
                sql = f"SELECT {_TASK} FROM tasks WHERE {where.within(among)}"
                answer = await self._fetch("task", workspace, sql, [workspace, *params], fixed=True)
                at = at or answer.at  # the older one, if there are two
                for task in map(task_of, answer.rows):
                    found[task.id if column == "id" else task.uid] = task
        return Read(found, at)

    async def recent(self, workspace: str, count: int) -> Recent:
        """Return where a workspace stands, and what its last entries changed. Raises NotFound if there is none."""
        few = where.within(f"seq > (SELECT seq FROM workspaces WHERE name = ?) - {count}")
        sql = (
            f"SELECT epoch, {self._driver.dialect.history}, seq, entity_id, latest FROM meta CROSS JOIN workspaces LEFT JOIN "
            f"(SELECT entity_id, max(seq) AS latest FROM log WHERE {few} GROUP BY 1) AS changed ON 1 = 1 WHERE name = ?"
        )
        rows = await self._driver.fetch(sql, [workspace] * 3, name="follow")
        if not rows:
            raise _no_workspace(workspace)
        epoch, history, head = rows[0][:3]
        changed = {id: latest for *_, id, latest in rows if id is not None}
        return Recent(epoch, epoch + history, head, max(0, head - count), changed)

    async def news(self, since: Mapping[str, int]) -> News:
        """Return what comes after these numbers of these workspaces' logs, `NEWS_MAX` entries at most of each."""
        followed = " UNION ALL ".join(["SELECT ? AS followed, ? AS since"] * len(since))
        sql = (
            f"SELECT epoch, {self._driver.dialect.history}, name, workspaces.seq, {', '.join(f'log.{name}' for name in STEP)} "
            f"FROM meta CROSS JOIN ({followed}) AS f JOIN workspaces ON name = followed LEFT JOIN log "
            f"ON log.workspace_id = workspaces.id AND log.seq > since AND log.seq <= since + {NEWS_MAX} ORDER BY name, log.seq"
        )
        logs: dict[str, tuple[int, list[Step]]] = {}
        history = ""
        for row in await self._driver.fetch(sql, [value for pair in since.items() for value in pair], name="feed"):
            epoch, timeline, name, head, *step = row
            history = epoch + timeline
            steps = logs.setdefault(name, (head, []))[1]
            if step[0] is not None:
                steps.append(Stored(tuple(step)))
        return News(history, logs)

    async def _fetch(
        self,
        name: Statement,
        workspace: str,
        sql: str,
        params: Sequence[Any],
        *,
        beside: Sql = ("0", []),
        fixed: bool = False,
    ) -> "_Answer":
        """Return the rows of a question, whose first column is never null, and the head of the log that they belong to.

        beside: an expression that is asked for as well, whether there are rows or not.
        """
        whole = (
            f"SELECT workspaces.seq, epoch, {beside[0]}, answer.* FROM meta CROSS JOIN workspaces LEFT JOIN ({sql}) AS answer "
            "ON 1 = 1 WHERE workspaces.name = ?"
        )
        rows = await self._driver.fetch(whole, [*beside[1], *params, workspace], fixed=fixed, name=name)
        if not rows:
            raise _no_workspace(workspace)
        seq, epoch, found = rows[0][:3]
        return _Answer(seq, epoch, found, [row[3:] for row in rows] if rows[0][3] is not None else [])

    async def _list(self, workspace: str, query: TaskQuery) -> Read[Page[Task]]:
        now, start = task_cursor(workspace, query) or (time.time_ns() // 1000, None)
        sort = query.sort[0] if query.sort else "id"
        context = where.Context(self._driver.dialect, workspace, zone_of(query.zone), instant(now), sort)
        terms = where.terms(query.where)
        texts = [term for term in terms if isinstance(term, Text)]
        few: Condition | None = None
        say: Callable[[Condition, where.Context], Sql] = where.condition
        if terms and query.limit is not None and context.dialect.blind:
            few, say = await self._fewest(terms, context), where.in_passing
        keys, source = where.order(query.sort, context, walk=few is None and not texts)
        conditions = [say(term, context) for term in terms]
        if few is not None:
            conditions.append(where.among_few(few, context))
        elif texts and not context.dialect.blind:
            # PostgreSQL takes any beginning of a word for frequent. What is looked for seldom is.
            source = where.fenced([where.condition(term, context) for term in texts], context)
            conditions = [where.in_passing(term, context) for term in terms if term not in texts]
        if start is not None:
            if [type(v) for v in start] != [str if k.sql == "title" else int for k in keys]:
                raise no_such_cursor()
            conditions.append(where.after(keys, start))
        whole = where.within(*(sql for sql, _ in conditions))
        params = [*source[1], workspace, *(param for _, more in conditions for param in more)]
        order_by = where.order_by(keys, "+" if few is not None else "")
        sql = f"SELECT {_TASK} FROM {source[0]} WHERE {whole} ORDER BY {order_by}"
        beside: Sql = ("0", [])
        if query.count:
            picked, values = where.condition(query.where, context) if query.where is not None else ("1 = 1", [])
            beside = f"(SELECT count(*) FROM tasks WHERE {where.within(picked)})", [workspace, *values]
        answer = await self._fetch("list", workspace, sql + _limit(query.limit), params, beside=beside)
        rows = answer.rows
        more_follow = query.limit is not None and len(rows) > query.limit
        items = tuple(map(task_of, rows[: query.limit]))
        # Where the moment means nothing, the same page has the same cursor whenever it is asked for.
        moment = now if query.momentary else 0
        cursor = encode_task_cursor(workspace, query, moment, place(items[-1], query.sort)) if more_follow else None
        return Read(Page(items, cursor, answer.beside if query.count else UNSET), answer.at)

    async def _fewest(self, terms: Sequence[Condition], context: where.Context) -> Condition | None:
        """Return the term that picks the fewest tasks, None if none picks few."""
        [counts] = await self._driver.fetch(*where.counts(terms, context), name="plan")
        fewest = min(range(len(counts)), key=counts.__getitem__)
        return terms[fewest] if counts[fewest] <= where.FEW else None

    async def _history(self, workspace: str, query: History) -> Read[Page[Change]]:
        same = ["history", workspace, query.id]
        before = _INTEGER_MAX if query.cursor is None else _bounded(decode_cursor(same, query.cursor, int))
        one, params = "?", [_bounded(query.id) if isinstance(query.id, int) else str(query.id)]
        if isinstance(query.id, UUID):  # the task with this uid, or the last one that had it
            gone = f"SELECT entity_id FROM log WHERE {where.within('entity_uid = ?', _REMOVED)}"
            removed = f"{gone} ORDER BY +seq DESC LIMIT 1"
            one = f"COALESCE((SELECT id FROM tasks WHERE {where.within('uid = ?')}), ({removed}))"
            params = [workspace, *params, workspace, *params]
        sql = f"SELECT {_LOG} FROM log WHERE {where.within(f'entity_id = {one}', 'seq < ?')} ORDER BY seq DESC"
        answer = await self._fetch("history", workspace, sql + _limit(query.limit), [workspace, *params, before])
        rows = answer.rows
        if not rows and query.cursor is None:
            raise no_task(query.id, answer.at)
        items = tuple(map(change_of, rows[: query.limit]))
        return Read(Page(items, encode_cursor(same, items[-1].seq) if len(rows) > len(items) else None), answer.at)

    async def _changes(self, workspace: str, query: ChangesSince) -> Read[Changes]:
        sql = f"SELECT {_LOG} FROM log WHERE {where.within('seq > ?')} ORDER BY seq LIMIT {query.limit}"
        answer = await self._fetch("changes", workspace, sql, [workspace, min(query.since, _INTEGER_MAX)])
        if (query.epoch is not None and query.epoch != answer.epoch) or query.since > answer.seq:
            raise CursorExpired(f"this log has no entry {query.since} of that epoch; read it anew from 0", epoch=answer.epoch)
        items = tuple(map(change_of, answer.rows))
        last = items[-1].seq if items else query.since
        return Read(Changes(items, last, last < answer.seq, answer.epoch), answer.at)

    async def _stats(self, workspace: str, zone: ZoneInfo) -> Read[Stats]:
        now = datetime.now(UTC)
        today = now.astimezone(zone).date()
        days = [today - timedelta(days=ago) for ago in reversed(range(STATS_DAYS))]
        starts = [micros(datetime(day.year, day.month, day.day, tzinfo=zone)) for day in [*days, today + timedelta(days=1)]]
        spans = ", ".join(f"({n}, {starts[n]}, {starts[n + 1]})" for n in range(STATS_DAYS))
        context = where.Context(self._driver.dialect, workspace, zone, now)
        overdue, params = where.condition(Overdue(), context)
        sql = (
            f"SELECT 'status' AS kind, status AS item, count(*) FROM tasks WHERE {where.within()} GROUP BY 2 "
            f"UNION ALL SELECT 'overdue', 0, count(*) FROM tasks WHERE {where.within(overdue)} "
            f"UNION ALL SELECT 'done', n, count(*) FROM (WITH days (n, start, stop) AS (VALUES {spans}) SELECT * FROM days) AS d "
            f"JOIN tasks ON {where.within('completed_at >= start AND completed_at < stop')} GROUP BY 2"
        )
        counts, done, late = _no_counts(), dict.fromkeys(range(STATS_DAYS), 0), 0
        answer = await self._fetch("stats", workspace, sql, [workspace, workspace, *params, workspace])
        for kind, item, count in answer.rows:
            match kind:
                case "status":
                    counts[STATUSES[item]] = count
                case "overdue":
                    late = count
                case _:
                    done[item] = count
        return Read(Stats(counts, late, tuple(Day(day, done[n]) for n, day in enumerate(days))), answer.at)


class _Answer(NamedTuple):
    seq: int
    epoch: str
    beside: Any
    rows: list[Row]

    @property
    def at(self) -> str:
        return place_in_log(self.epoch, self.seq)


def _no_workspace(name: str) -> NotFound:
    return NotFound(f"there is no workspace {name!r}")


def _tallies(rows: Sequence[Row]) -> Tallies:
    found: dict[str, dict[Status, int]] = {}
    for name, status, count in rows:
        found.setdefault(name, _no_counts())[STATUSES[status]] = count
    return Tallies(tuple(Tally(name, found[name]) for name in sorted(found)))


def _limit(limit: int | None) -> str:
    # One more than asked for tells whether there are more. A number, not a parameter, for a plan that knows how few are wanted.
    # SQLite forgets the order of a part that has no limit.
    return f" LIMIT {_INTEGER_MAX if limit is None else _bounded(limit + 1)}"


def _bounded(number: int) -> int:
    """Return a number that fits a column; no task has one beyond."""
    return max(0, min(number, _INTEGER_MAX))


def _no_counts() -> dict[Status, int]:
    return dict.fromkeys(STATUSES, 0)
