"""The one transaction that changes tasks: a batch of changesets of one workspace, and their entries in the log.

It takes a fixed number of statements, however many changesets there are: lock the workspace, read the rows that are named,
work everything out in memory by the rules of `tasks.py`, write rows and log. The lock makes every rule free of races and
gives the log its numbers, without a gap and in the order of commits.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

from taskctl.errors import Conflict, InvalidRequest, TaskctlError, TaskNotFound
from taskctl.storage.driver import Connection, Driver
from taskctl.storage.rows import ENTRY, TASK, Entry, Head, former, instant, row_of, row_of_entry, task_of, uuid7
from taskctl.tasks import (
    Add,
    Changeset,
    Edit,
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
    require_equal,
    require_version,
)


class Pending(NamedTuple):
    """A changeset that waits to be written, and what the log will say about it."""

    changes: Changeset
    actor: str | None
    source: Source


Outcome: TypeAlias = Written | TaskctlError

_KEY = ("workspace_id", "id")
_REST = (*TASK[1:], "search")


class Entered(NamedTuple):
    """What became of a batch, and the number and changeset of its first log entry, by which it can be found in the log.

    foreseen: whether even the failures are true only if the batch was written.
    """

    outcomes: list[Outcome]
    seq: int
    changeset: UUID | None
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

        It takes the workspace first: whoever holds that knows that the transaction in doubt has ended.
        """

        async def look(connection: Connection) -> bool:
            await connection.run(connection.dialect.lock, [workspace], fixed=True)
            sql = "SELECT changeset FROM log WHERE workspace_id = (SELECT id FROM workspaces WHERE name = ?) AND seq = ?"
            return [(str(entered.changeset),)] == await connection.fetch(sql, [workspace, entered.seq])

        return await self._driver.write(look)


async def commit(connection: Connection, workspace: str, batch: Sequence[Pending]) -> tuple["Draft", list[Outcome]]:
    """Write the changesets, in their order, and return what became of each.

    One that fails changes nothing, and the others go on. Raises Unavailable if the database cannot; then nothing is written.
    """
    await connection.run(connection.dialect.lock, [workspace], fixed=True)
    # A statement of its own, that begins when the lock is held: one that waited would see what was there before.
    draft = Draft(*await read(connection, workspace, Named(batch)))
    outcomes = [draft.run(pending) for pending in batch]
    if draft.entries:
        await draft.write(connection)
    return draft, outcomes


class Named:
    """The stored tasks that a batch names, by their ids or uids."""

    def __init__(self, batch: Sequence[Pending]) -> None:
        self.ids: set[int] = set()
        self.uids: set[str] = set()
        for pending in batch:
            for operation in pending.changes.operations:
                match operation:
                    case Edit(int(ref)) | Remove(int(ref)):
                        if 0 < ref < 2**63:  # no task has one that fits no column
                            self.ids.add(ref)
                    case Edit(UUID() as uid) | Remove(UUID() as uid) | Add(NewTask(uid=UUID() as uid)):
                        self.uids.add(str(uid))

    def __bool__(self) -> bool:
        return bool(self.ids or self.uids)


async def read(connection: Connection, workspace: str, named: Named) -> tuple[Head, int, list[Task]]:
    """Return where the workspace stands, the database's time, and the tasks that are named."""
    dialect = connection.dialect
    among = [dialect.among(column, values) for column, values in (("tasks.id", named.ids), ("uid", named.uids)) if values]
    sql, params = f"SELECT {', '.join(f'workspaces.{column}' for column in Head._fields)}, {dialect.now}", []
    if among:
        sql += f", {', '.join(f'tasks.{column}' for column in TASK)} FROM workspaces LEFT JOIN tasks "
        sql += f"ON workspace_id = workspaces.id AND ({' OR '.join(term for term, _ in among)}) WHERE name = ?"
        params = [value for _, values in among for value in values]
    else:
        sql += " FROM workspaces WHERE name = ?"
    rows = await connection.fetch(sql, [*params, workspace], fixed=True)
    if not rows:
        raise InvalidRequest(f"there is no workspace {workspace!r}")
    head, now, first = Head(*rows[0][:4]), rows[0][4], 5
    return head, now, [task_of(row[first:]) for row in rows if among and row[first] is not None]


class Draft:
    """The tasks that a batch touches, as they become; an undo for what a failing changeset did to them."""

    def __init__(self, before: Head, now: int, stored: Sequence[Task]) -> None:
        self.before = before
        self.seq = before.seq
        self.next_id = before.next_id
        self.now = max(now, before.written_at)
        self.stored = {task.id: task for task in stored}
        self.tasks = dict(self.stored)
        self.uids = {task.uid: task.id for task in stored}
        self.entries: list[Entry] = []
        self._undo: list[tuple[Task | None, Task | None]] = []

    @property
    def head(self) -> Head:
        """Where the workspace stands afterwards."""
        return Head(self.before.id, self.seq + len(self.entries), self.next_id, self.now)

    def entered(self, outcomes: list[Outcome]) -> Entered:
        """Return what became of the changesets, and where in the log it is."""
        return Entered(outcomes, self.seq + 1, self.entries[0].changeset if self.entries else None)

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
        await connection.insert("log", ("workspace_id", *ENTRY), entries)
        await connection.run(
            "UPDATE workspaces SET seq = ?, next_id = ?, written_at = ? WHERE id = ?", [*head[1:], head.id], fixed=True
        )

    def run(self, pending: Pending) -> Outcome:
        """Run a changeset: all of it, or, if it is atomic and fails, nothing."""
        changes = pending.changes
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
        return failure or Written(changeset, self.seq + len(self.entries), tuple(results))

    def _run(self, operation: Operation, pending: Pending, changeset: UUID) -> Task | None:
        def log(op: str, version: int, task: Task, former: dict[str, object] | None = None) -> None:
            about = (changeset, pending.actor, pending.source, pending.changes.message)
            self.entries.append(Entry(*about, op, version, task, former))

        match operation:
            case Add(new):
                if new.uid in self.uids:
                    raise Conflict(f"there is a task with the uid {new.uid} already", id=self.uids[new.uid])
                now = instant(self.now)
                task = create(new, id=self.next_id, uid=new.uid or uuid7(self.now), now=now)
                self.next_id += 1
                self._replace(None, task)
                log("add", task.version, task)
                return task
            case Edit(ref, patch, version, expected):
                task = self._find(ref)
                require_version(task, version)
                require_equal(task, expected)
                changed = change(task, patch, now=instant(self.now))
                if changed is not task:
                    self._replace(task, changed)
                    log("edit", changed.version, changed, former(task, changed))
                return changed
            case Remove(ref, version):
                task = self._find(ref)
                require_version(task, version)
                self._replace(task, None)
                log("remove", task.version + 1, task)
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


def no_task(ref: Ref) -> TaskNotFound:
    """Return the failure to find a task. JSON has the id as a number if it fits one."""
    fits = isinstance(ref, int) and -(2**63) <= ref < 2**63
    return TaskNotFound(f"there is no task {ref}", id=ref if fits else str(ref))
