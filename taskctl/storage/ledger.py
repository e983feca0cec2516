"""The one transaction that changes tasks: a batch of changesets of one workspace, and their entries in the log.

It takes a fixed number of statements, however many changesets there are: lock the workspace, read the rows that are named,
work everything out in memory by the rules of `tasks.py`, write rows and log. The lock makes every rule free of races and
gives the log its numbers, without a gap and in the order of commits.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from taskctl.errors import Conflict, IdempotencyMismatch, NotFound, TaskctlError
from taskctl.log import Step
from taskctl.storage.driver import Connection, Driver
from taskctl.storage.rows import (
    ENTRY,
    TASK,
    Entry,
    Head,
    Record,
    Worked,
    instant,
    record_of,
    row_of,
    row_of_entry,
    row_of_record,
    task_of,
    uuid7,
    versions_in,
)
from taskctl.tasks import (
    Add,
    Changeset,
    Edit,
    IdempotencyKey,
    NewTask,
    Operation,
    Ref,
    Refuse,
    Remove,
    Source,
    Task,
    Written,
    change,
    create,
    no_task,
    require_equal,
    require_version,
)
from taskctl.wire import decode, place_in_log


class Pending(NamedTuple):
    """A changeset that waits to be written, what the log will say about it, and the key under which it happens only once."""

    changes: Changeset
    actor: str | None
    source: Source
    key: IdempotencyKey | None = None


Outcome: TypeAlias = Written | TaskctlError

_KEY = ("workspace_id", "id")
_REST = (*TASK[1:], "search")
KEPT = 24 * 3600 * 1_000_000
"""Microseconds for which an idempotency key is known."""
_FORGET = (  # some at a time: whoever writes next must not pay for a busy day
    "DELETE FROM idempotency_keys WHERE (workspace_id = ?) AND key IN "
    "(SELECT key FROM idempotency_keys WHERE (workspace_id = ?) AND (at <= ?) ORDER BY at LIMIT 1000)"
)


class Entered(NamedTuple):
    """What became of a batch, and the number and changeset of its first log entry, by which it can be found in the log.

    steps: its entries. foreseen: whether even the failures are true only if the batch was written.
    """

    outcomes: list[Outcome]
    seq: int
    changeset: UUID | None
    steps: Sequence[Step] = ()
    foreseen: bool = False


class Ledger:
    """The log and the tasks of a database, as whoever writes to them sees them."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def submit(self, workspace: str, pending: Pending) -> Outcome:
        """Write a changeset by itself, and return what became of it."""
        [outcome] = (await self.write(workspace, [pending])).outcomes
        return outcome

    async def write(self, workspace: str, batch: Sequence[Pending]) -> Entered:
        """Write a batch of changesets in one transaction. Raises Doubtful, with what it would return, if that is not known."""

        async def work(connection: Connection) -> Entered:
            draft, outcomes = await commit(connection, workspace, batch)
            return draft.entered(outcomes)

        return await self._driver.write(work)

    async def has(self, workspace: str, entered: Entered) -> bool:
        """Return whether a batch whose commit was in doubt is in the log.

        It takes the workspace first: whoever holds that knows that the transaction in doubt has ended, or not yet begun. In
        that case it never will: it expects the workspace as it was.
        """

        async def look(connection: Connection) -> bool:
            await connection.run(connection.dialect.lock, [workspace], fixed=True)
            sql = "SELECT changeset FROM log WHERE (workspace_id = (SELECT id FROM workspaces WHERE name = ?)) AND (seq = ?)"
            found = [(str(entered.changeset),)] == await connection.fetch(sql, [workspace, entered.seq], name="settle")
            if not found:  # a message that takes the lock by itself may still be under way: it must come too late
                await connection.run("UPDATE workspaces SET written_at = written_at + 1 WHERE name = ?", [workspace], fixed=True)
            return found

        return await self._driver.write(look)


async def _records(connection: Connection, workspace_id: int, keys: Collection[str]) -> list[Record]:
    """Return what is known of idempotency keys."""
    term, values = connection.dialect.among("key", keys)
    sql = f"SELECT key, request, at, answer FROM idempotency_keys WHERE (workspace_id = ?) AND ({term})"
    rows = await connection.fetch(sql, [workspace_id, *values], fixed=True, name="keys")
    tasks: dict[tuple[int, int], Task] = {}
    if wanted := versions_in([row[3] for row in rows]):
        ids, versions = (
            connection.dialect.among(c, {pair[n] for pair in wanted}) for n, c in enumerate(("entity_id", "version"))
        )
        sql = f"SELECT task FROM log WHERE (workspace_id = ?) AND ({ids[0]}) AND ({versions[0]}) AND (op <> 'remove')"
        found = await connection.fetch(sql, [workspace_id, *ids[1], *versions[1]], fixed=True, name="keys")
        tasks = {(task.id, task.version): task for task in (decode(text, Task) for (text,) in found)}
    return [record_of(row, tasks) for row in rows]


async def commit(connection: Connection, workspace: str, batch: Sequence[Pending]) -> tuple["Draft", list[Outcome]]:
    """Write the changesets, in their order, and return what became of each.

    One that fails changes nothing, and the others go on. Raises Unavailable if the database cannot; then nothing is written.
    """
    await connection.run(connection.dialect.lock, [workspace], fixed=True)
    # A statement of its own, that begins when the lock is held: one that waited would see what was there before.
    draft = Draft(await read(connection, workspace, Named(batch)))
    outcomes = [draft.run(pending) for pending in batch]
    if draft.entries or draft.recorded:
        await draft.write(connection)
    return draft, outcomes


class Named:
    """What a batch names: stored tasks, by their ids or uids, and idempotency keys."""

    def __init__(self, batch: Sequence[Pending]) -> None:
        self.ids: set[int] = set()
        self.uids: set[str] = set()
        self.keys = {pending.key.stored for pending in batch if pending.key is not None}
        for pending in batch:
            for operation in pending.changes.operations:
                match operation:
                    case Edit(int(ref)) | Remove(int(ref)):
                        if 0 < ref < 2**63:  # no task has one that fits no column
                            self.ids.add(ref)
                    case Edit(UUID() as uid) | Remove(UUID() as uid) | Add(NewTask(uid=UUID() as uid)):
                        self.uids.add(str(uid))

    def __bool__(self) -> bool:
        return bool(self.ids or self.uids or self.keys)


class Found(NamedTuple):
    """What a batch is worked out from: where the workspace stands, its log's epoch, the database's time, what is named."""

    head: Head
    epoch: str
    now: int
    tasks: Sequence[Task] = ()
    records: Sequence[Record] = ()


async def read(connection: Connection, workspace: str, named: Named) -> Found:
    """Return what a batch has to know."""
    dialect = connection.dialect
    among = [dialect.among(column, values) for column, values in (("tasks.id", named.ids), ("uid", named.uids)) if values]
    last = "(SELECT changeset FROM log WHERE workspace_id = workspaces.id AND seq = workspaces.seq)"
    sql, params = f"SELECT workspaces.id, next_id, written_at, seq, {last}, epoch, {dialect.now}", []
    if among:
        sql += f", {', '.join(f'tasks.{column}' for column in TASK)} FROM meta CROSS JOIN workspaces LEFT JOIN tasks "
        sql += f"ON workspace_id = workspaces.id AND ({' OR '.join(term for term, _ in among)}) WHERE name = ?"
        params = [value for _, values in among for value in values]
    else:
        sql += " FROM meta CROSS JOIN workspaces WHERE name = ?"
    rows = await connection.fetch(sql, [*params, workspace], fixed=True, name="named")
    if not rows:
        raise NotFound(f"there is no workspace {workspace!r}")
    own = len(Head._fields)
    head, first = Head(*rows[0][:own]), own + 2
    # After the tasks, so that a record is missing only if its tasks are.
    records = await _records(connection, head.id, named.keys) if named.keys else []
    epoch, now = rows[0][own:first]
    return Found(head, epoch, now, [task_of(row[first:]) for row in rows if among and row[first] is not None], records)


class Draft:
    """The tasks that a batch touches, as they become; an undo for what a failing changeset did to them."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.before = before = found.head
        self.seq = before.seq
        self.next_id = before.next_id
        self.now = max(found.now, before.written_at)
        self.stored = {task.id: task for task in found.tasks}
        self.records = {record.key: record for record in found.records if record.at > self.now - KEPT}
        self.recorded: list[Record] = []
        self.tasks = dict(self.stored)
        self.uids = {task.uid: task.id for task in found.tasks}
        self.entries: list[Entry] = []
        self._undo: list[tuple[Task | None, Task | None]] = []

    @property
    def head(self) -> Head:
        """Where the workspace stands afterwards."""
        if not (self.entries or self.recorded):
            return self.before
        last = str(self.entries[-1].changeset) if self.entries else self.before.changeset
        return Head(self.before.id, self.next_id, self.now, self.seq + len(self.entries), last)

    def entered(self, outcomes: list[Outcome]) -> Entered:
        """Return what became of the changesets, and where in the log it is."""
        steps = [Worked(self.seq + n, entry) for n, entry in enumerate(self.entries, start=1)]
        return Entered(outcomes, self.seq + 1, self.entries[0].changeset if self.entries else None, steps)

    async def write(self, connection: Connection) -> None:
        """Write what a batch changes, and its entries in the log."""
        head = self.head
        changed = {entry.task.id for entry in self.entries}
        kept = [self.tasks[id] for id in sorted(changed & self.tasks.keys())]
        added = [[head.id, *row_of(task)] for task in kept if task.id not in self.stored]
        edited = [[head.id, *row_of(task)] for task in kept if task.id in self.stored]
        gone = [(head.id, id) for id in sorted((changed & self.stored.keys()) - self.tasks.keys())]
        # Removed before added: a uid that one task gives up may be another's in the same batch.
        if gone:
            await connection.delete("tasks", _KEY, gone)
        if edited:
            await connection.update("tasks", _KEY, _REST, edited)
        if added:
            await connection.insert("tasks", (*_KEY, *_REST), added)
        old = {(label, id) for id in changed & self.stored.keys() for label in self.stored[id].labels}
        new = {(label, task.id) for task in kept for label in task.labels}
        labels = ("workspace_id", "label", "task_id")
        if old - new:
            await connection.delete("task_labels", labels, [(head.id, *row) for row in sorted(old - new)])
        if new - old:
            await connection.insert("task_labels", labels, [(head.id, *row) for row in sorted(new - old)])
        entries = [[head.id, *row_of_entry(e, self.seq + n, head.written_at)] for n, e in enumerate(self.entries, start=1)]
        if entries:
            await connection.insert("log", ("workspace_id", *ENTRY), entries)
        if self.recorded:
            columns = ("workspace_id", "key", "request", "at", "answer")
            if used := {record.key for record in self.found.records} & {record.key for record in self.recorded}:
                await connection.delete("idempotency_keys", columns[:2], [(head.id, key) for key in sorted(used)])
            await connection.run(_FORGET, [head.id, head.id, self.now - KEPT], fixed=True)
            await connection.insert("idempotency_keys", columns, [(head.id, *row_of_record(one)) for one in self.recorded])
        await connection.run(
            "UPDATE workspaces SET seq = ?, next_id = ?, written_at = ? WHERE id = ?",
            [head.seq, head.next_id, head.written_at, head.id],
            fixed=True,
        )

    def run(self, pending: Pending) -> Outcome:
        """Run a changeset: all of it, or, if it is atomic and fails, nothing."""
        changes, key = pending.changes, pending.key
        if key is not None and (record := self.records.get(key.stored)) is not None:
            if record.request != key.request:
                return IdempotencyMismatch(f"the idempotency key {key.name!r} belongs to another request")
            at = place_in_log(self.found.epoch, record.written.seq)
            return msgspec.structs.replace(record.written, at=at, replayed=True)
        changeset = uuid7(self.now)
        next_id, entries = self.next_id, len(self.entries)
        self._undo = []
        results: list[Task | None | TaskctlError] = []
        failure: TaskctlError | None = None
        for index, operation in enumerate(changes.operations):
            try:
                results.append(self._run(operation, pending, changeset))
            except TaskctlError as e:
                if changes.atomic:
                    failure = e.within(index, f"/operations/{index}/patch")
                    break
                results.append(e)
        if failure is not None or changes.dry_run:
            for before, after in reversed(self._undo):
                self._put(after, before)
            self.next_id = next_id
            del self.entries[entries:]
        if failure is not None:
            return failure
        seq = self.seq + len(self.entries)
        written = Written(changeset, seq, tuple(results), place_in_log(self.found.epoch, seq))
        if key is not None and not changes.dry_run and any(not isinstance(result, TaskctlError) for result in results):
            self.recorded.append(Record(key.stored, key.request, self.now, written))
            self.records[key.stored] = self.recorded[-1]
        return written

    def _run(self, operation: Operation, pending: Pending, changeset: UUID) -> Task | None:
        def log(op: str, version: int, task: Task, before: Task | None) -> None:
            about = (changeset, pending.actor, pending.source, pending.changes.message)
            self.entries.append(Entry(*about, op, version, task, before))

        match operation:
            case Add(new):
                if new.uid in self.uids:
                    raise Conflict(f"there is a task with the uid {new.uid} already", id=self.uids[new.uid])
                now = instant(self.now)
                task = create(new, id=self.next_id, uid=new.uid or uuid7(self.now), now=now)
                self.next_id += 1
                self._replace(None, task)
                log("add", task.version, task, None)
                return task
            case Edit(ref, patch, version, expected):
                task = self._find(ref)
                require_version(task, version)
                require_equal(task, expected)
                changed = change(task, patch, now=instant(self.now))
                if changed is not task:
                    self._replace(task, changed)
                    log("edit", changed.version, changed, task)
                return changed
            case Remove(ref, version):
                task = self._find(ref)
                require_version(task, version)
                self._replace(task, None)
                log("remove", task.version + 1, task, task)
                return None
            case Refuse(error):
                raise error

    def _find(self, ref: Ref) -> Task:
        id = self.uids.get(ref) if isinstance(ref, UUID) else ref
        if id is None or (task := self.tasks.get(id)) is None:
            raise no_task(ref)
        return task

    def _replace(self, before: Task | None, after: Task | None) -> None:
        self._put(before, after)
        self._undo.append((before, after))

    def _put(self, before: Task | None, after: Task | None) -> None:
        if before is not None:
            del self.tasks[before.id]
            del self.uids[before.uid]
        if after is not None:
            self.tasks[after.id] = after
            self.uids[after.uid] = after.id
